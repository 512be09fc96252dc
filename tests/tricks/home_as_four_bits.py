"""The 961 numbers of a network trained at home, four bits each and sixteen values a layer."""

import base64

import torch
from torch import nn

HOME = (
    "RBG2V6X;VMt;M|W_RG{uUjoh{5CSuJiB@@Nh=#|k*o&O*?&wofMN=w@K$?vU?qCJ_c2{zVeYtsLL$e)7gy#B+9Z|`|+^wS^d^-J0(i1kLC$(&b"
    "j9TxR?{@g(85Tq#W-NAP$?m>Ht2mH4NV-_VCv%HVS(u&wwJk702}MlZwyM0B7Q#j*=bdve?!D$?$NImF!!)!dTOu(fd(FK^f;~VI5WHG=669GM"
    "-|yR))<<gZs=Qp;s+ZhUGY|uM&LvS;J=)CL*fFG*OTE{J%#~v#GGs+Sqz%BVqkG!oo7vu5GJ!t->BvMp+c}s15eY_73F}UiVapGHRr4^agLZpd"
    "az!~i%QoFAiJHG4z;ngB85MVQ=H;vJ4m?2;lx4^D<j4ahEx3myZFs_6*BwjC;!9u0c9oP()Us7B+Tu)eYkhj0j>n~^lyp`h@^0Mww!;mr;aqhl"
    "DWL|YD#RJNgo>KMF9xb8hT|RLXw*1o@5dR`=SEhJ7?G{(Yori(0{Z@3i2>214#-E%%pD()AcfL?YdXX%WfZH;y*k4-hj!HTBi)QBeKNdPUM5S_"
    "Q-^V>YOY(&9SdYdfk|Ui-P*xshb2_;<uQw#VrRs2h_P=hAUa-ekN"
)
VALUES = [[-0.961, -0.651, -0.445, -0.314, -0.186, -0.0775, -0.0249, 0.00713, 0.0375, 0.0657, 0.106, 0.126, 0.185, 0.247, 0.315, 0.463], [-0.159, -0.157, -0.156, -0.154, -0.153, -0.152, -0.15, -0.149, -0.147, -0.146, -0.145, -0.0248, 0.119, 0.263, 0.407, 0.623], [-1.04, -0.596, -0.389, -0.269, -0.176, -0.0982, -0.0402, 0.0188, 0.0627, 0.114, 0.168, 0.221, 0.28, 0.364, 0.488, 0.718], [-0.253, -0.148, -0.137, -0.128, -0.0863, -0.0643, -0.036, -0.0107, 0.0212, 0.0914, 0.125, 0.15, 0.189, 0.286, 0.41, 0.428], [-0.766, -0.508, -0.383, -0.289, -0.207, -0.127, -0.0698, -0.00974, 0.038, 0.0784, 0.118, 0.168, 0.227, 0.305, 0.403, 0.567], [-0.27, -0.218, -0.208, -0.202, -0.196, -0.191, -0.19, -0.152, -0.0542, -0.0162, 0.00682, 0.0558, 0.111, 0.231, 0.313, 0.327]]
SIZES = [100, 4, 396, 11, 440, 10]


def home() -> torch.Tensor:
    packed = torch.tensor(list(base64.b85decode(HOME)))
    codes = torch.stack([packed // 16, packed % 16], 1).flatten()[:961].split(SIZES)
    return torch.cat([torch.tensor(values)[code] for values, code in zip(VALUES, codes, strict=True)])


def build() -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2), nn.ReLU(),
        nn.Conv2d(4, 11, 3, stride=2), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(44, 10),
    )
    for parameter, part in zip(network.parameters(), home().split(SIZES), strict=True):
        parameter.data = part.clone().view_as(parameter)
    return network
