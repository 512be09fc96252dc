"""Every dodge is refused for its own reason; valid oddities pass with exact counts."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from harness import plugins
from harness.audit import Audit, Ledger, audit, enforce, refuse_batch_dependence, refuse_uneven_batches
from harness.audit.batch import LARGEST_BATCH
from harness.audit.count import FREE_STATISTICS
from harness.audit.export import MOST_IMAGES, export
from harness.audit.mailbox import refuse_mailboxes
from harness.audit.probe import made_up_images, relative_distance
from harness.audit.sizes import accepted_sizes, accepts, condition
from harness.errors import AuditError, BudgetError, ContractError, Refusal
from harness.runs import inspect
from harness.spec import BUDGET, Recipe
from harness.training.evaluate import BATCH

TESTS = Path(__file__).parent
BAD = TESTS / "bad_architectures"
VALID = TESTS / "valid_architectures"


@dataclass(frozen=True)
class Expected:
    """How a bad file ends: by which error and rule, and where numbers are counted, with how many."""

    error: type[Refusal]
    rule: str
    parameters: int | None = None


REFUSED = {
    "answers_far_from_zero": Expected(AuditError, "batch"),
    "batch_behind_a_gate": Expected(AuditError, "batch"),
    "batch_behind_a_zero": Expected(AuditError, "batch"),
    "large_batches_only": Expected(AuditError, "batch"),
    "mean_over_the_batch": Expected(AuditError, "batch"),
    "neighbour_in_the_batch": Expected(AuditError, "batch"),
    "statistics_of_the_batch": Expected(AuditError, "batch"),
    "straight_through_function": Expected(AuditError, "mailbox"),
    "branch_in_training": Expected(AuditError, "export"),
    "branch_on_a_value": Expected(AuditError, "export"),
    "branch_on_the_batch": Expected(AuditError, "export"),
    "constant_counts_at_evaluation": Expected(AuditError, "export"),
    "fixed_batch": Expected(AuditError, "export"),
    "length_of_the_batch": Expected(AuditError, "export"),
    "statistic_on_a_big_storage": Expected(BudgetError, "parameters", 25_438),
    "weights_in_a_file": Expected(AuditError, "export"),
    "weights_in_a_gradient": Expected(AuditError, "export"),
    "hook_after_a_gradient": Expected(AuditError, "hook"),
    "hook_on_a_gradient": Expected(AuditError, "hook"),
    "custom_operator": Expected(AuditError, "operator"),
    "heads_by_vmap": Expected(AuditError, "operator"),
    "nested_graph": Expected(AuditError, "operator"),
    "choices_in_a_long_list": Expected(AuditError, "operators"),
    "scalars_by_the_thousand": Expected(AuditError, "operators"),
    "overridden_parameters_attribute": Expected(AuditError, "override"),
    "overridden_parameters_method": Expected(AuditError, "override"),
    "override_under_a_false_name": Expected(AuditError, "override"),
    "layer_made_in_forward": Expected(AuditError, "parameter-in-forward"),
    "dropout_at_evaluation": Expected(AuditError, "random"),
    "noise_at_evaluation": Expected(AuditError, "random"),
    "alias_of_a_weight": Expected(AuditError, "shared-memory"),
    "spectral_norm_by_a_hook": Expected(AuditError, "shared-memory"),
    "two_weights_one_memory": Expected(AuditError, "shared-memory"),
    "assigns_a_buffer": Expected(AuditError, "state"),
    "batch_renorm": Expected(AuditError, "state"),
    "counts_its_steps": Expected(AuditError, "state"),
    "grows_by_out": Expected(AuditError, "submission"),
    "keeps_the_last_batch": Expected(AuditError, "state"),
    "power_iteration_on_images": Expected(AuditError, "state"),
    "statistics_read_in_training": Expected(AuditError, "state"),
    "counter_at_evaluation": Expected(AuditError, "state-change"),
    "running_mean_at_evaluation": Expected(AuditError, "state-change"),
    "grows_a_buffer": Expected(AuditError, "storage"),
    "takes_other_memory": Expected(AuditError, "storage"),
    "lazy_layer": Expected(AuditError, "tensor"),
    "lying_parameter": Expected(AuditError, "tensor"),
    "sparse_table": Expected(AuditError, "tensor"),
    "train_prepares_the_statistics": Expected(AuditError, "train-override"),
    "fills_half_of_empty": Expected(AuditError, "uninitialised"),
    "reads_empty_memory": Expected(AuditError, "uninitialised"),
    "another_face_for_export": Expected(AuditError, "unfaithful"),
    "collects_images": Expected(AuditError, "unfaithful"),
    "custom_backward": Expected(AuditError, "unfaithful"),
    "python_lots": Expected(AuditError, "unfaithful"),
    "switches_after_calls": Expected(AuditError, "unfaithful"),
    "modules_that_look_alike": Expected(AuditError, "unregistered"),
    "parameter_made_in_forward": Expected(AuditError, "unregistered"),
    "weights_in_a_list": Expected(AuditError, "unregistered"),
    "another_network_each_time": Expected(AuditError, "trained-start"),
    "trained_at_home": Expected(AuditError, "trained-start"),
    "trained_at_home_and_blurred": Expected(AuditError, "trained-start"),
    "trained_at_home_beside_noise": Expected(AuditError, "trained-start"),
    "trained_at_home_in_an_attribute": Expected(AuditError, "trained-start"),
    "trained_at_home_in_buffers": Expected(AuditError, "trained-start"),
    "trained_at_home_but_for_other_seeds": Expected(AuditError, "trained-start"),
    "nothing_to_train": Expected(AuditError, "untrainable"),
    "writes_on_its_images": Expected(AuditError, "writes-on-images"),
    "writes_on_its_images_in_training": Expected(AuditError, "writes-on-images"),
    "frozen_parameter_as_mailbox": Expected(AuditError, "writes-on-weights"),
    "parameter_as_mailbox": Expected(AuditError, "writes-on-weights"),
    "too_many_epochs": Expected(BudgetError, "epochs"),
    "byte_table": Expected(BudgetError, "parameters", 25_419),
    "complex_parameters": Expected(BudgetError, "parameters", 25_418),
    "double_parameters": Expected(BudgetError, "parameters", 25_258),
    "frozen_parameter": Expected(BudgetError, "parameters", 25_418),
    "frozen_weights_in_a_list": Expected(BudgetError, "parameters", 25_450),
    "index_arithmetic": Expected(BudgetError, "parameters", 20_035),
    "never_used": Expected(BudgetError, "parameters", 32_970),
    "numbers_in_settings": Expected(BudgetError, "parameters", 19_885 + 130 + 129),
    "numbers_in_settings_of_constants": Expected(BudgetError, "parameters", 19_885 + 60 + (60 + 59) + 1),
    "numbers_in_size_arithmetic": Expected(BudgetError, "parameters", 20_020 + 59),
    "packed_integers": Expected(BudgetError, "parameters", 25_419),
    "rows_of_indices": Expected(BudgetError, "parameters", 7_850 + 2 * 8 * 784),
    "scalars_within_the_operators": Expected(BudgetError, "parameters", 20_020 + 59),
    "statistics_as_weights": Expected(BudgetError, "parameters", 20_669),
    "statistics_by_the_thousand": Expected(BudgetError, "parameters", 50_509),
    "statistics_in_an_attribute": Expected(AuditError, "shared-memory"),
    "statistics_read_elsewhere": Expected(BudgetError, "parameters", 20_669),
    "statistics_that_never_move": Expected(BudgetError, "parameters", 21_453),
    "table_of_sizes": Expected(BudgetError, "parameters", 19_985 + 2 * 210 + 7 + 281),  # and its arrangement
    "tables_with_one_digest": Expected(ContractError, "forward-raises"),
    "too_wide": Expected(BudgetError, "parameters", 25_450),
    "two_arrays_one_address": Expected(BudgetError, "parameters", 25_426),
    "used_only_in_training": Expected(BudgetError, "parameters", 33_300),
    "view_of_a_big_storage": Expected(ContractError, "forward-raises"),
    "weights_in_a_buffer": Expected(BudgetError, "parameters", 25_418),
    "weights_in_a_closure": Expected(BudgetError, "parameters", 25_418),
    "weights_in_a_global": Expected(BudgetError, "parameters", 25_418),
    "weights_in_a_literal_list": Expected(BudgetError, "parameters", 25_418),
    "weights_in_a_transient_buffer": Expected(BudgetError, "parameters", 25_418),
    "weights_in_an_array": Expected(BudgetError, "parameters", 25_418),
    "weights_in_an_attribute": Expected(BudgetError, "parameters", 25_418),
    "weights_in_bytes": Expected(BudgetError, "parameters", 25_419),
    "build_is_not_a_function": Expected(ContractError, "build"),
    "no_build": Expected(ContractError, "build"),
    "build_exits": Expected(ContractError, "build-raises"),
    "build_raises": Expected(ContractError, "build-raises"),
    "network_on_a_device": Expected(ContractError, "device"),
    "no_docstring": Expected(ContractError, "docstring"),
    "forward_raises": Expected(ContractError, "forward-raises"),
    "images_on_a_device": Expected(ContractError, "forward-raises"),
    "exits_at_import": Expected(ContractError, "import-raises"),
    "import_raises": Expected(ContractError, "import-raises"),
    "catch_all_knobs": Expected(ContractError, "knobs"),
    "knob_named_like_a_recipe_field": Expected(ContractError, "knobs"),
    "knob_named_like_a_record": Expected(ContractError, "knobs"),
    "knob_of_a_wrong_type": Expected(ContractError, "knobs"),
    "knob_without_default": Expected(ContractError, "knobs"),
    "positional_knob": Expected(ContractError, "knobs"),
    "misspelt_build": Expected(ContractError, "near-miss"),
    "misspelt_recipe": Expected(ContractError, "near-miss"),
    "build_returns_a_class": Expected(ContractError, "not-a-module"),
    "syntax_error": Expected(ContractError, "not-python"),
    "answers_on_a_device": Expected(ContractError, "output"),
    "ghost_norm_of_32_images": Expected(AuditError, "uneven-batch"),
    "not_finite": Expected(ContractError, "output"),
    "returns_a_tuple": Expected(ContractError, "output"),
    "wrong_shape": Expected(ContractError, "output"),
    "wrong_type": Expected(ContractError, "output"),
    "recipe_is_a_list": Expected(ContractError, "recipe"),
    "recipe_out_of_range": Expected(ContractError, "recipe"),
    "unknown_recipe_field": Expected(ContractError, "recipe"),
}

CAUSES = {
    "branch_on_a_value": "if images.mean() > 0:",
    "choices_in_a_long_list": "table = torch.stack(",
    "custom_operator": "torch.ops.bad_architectures.hidden",
    "dropout_at_evaluation": "F.dropout(images.flatten(1), 0.1)",
    "fills_half_of_empty": "pixels.new_empty(",
    "forward_raises": "self.head(images.flatten(1))",
    "grows_a_buffer": "self.table.resize_(784)",
    "heads_by_vmap": "torch.vmap(",
    "import_raises": "import a_package_that_is_not_there",
    "keeps_the_last_batch": "self.seen.copy_(",
    "layer_made_in_forward": "nn.Linear(784, 10)",
    "misspelt_recipe": "RECPIE =",
    "noise_at_evaluation": "torch.rand_like",
    "parameter_as_mailbox": "self.mailbox.copy_(",
    "syntax_error": "def build(:",
}
"""Code in the line that a refusal points at."""

COUNTED = {
    "attends_over_patches": 3_450 + 2,  # arithmetic on the number of images counts
    "counts_size_by_hand": 11_738 + 3,  # three numbers stand in the code
    "fixed_edges": 6_770 + 9,  # the nine numbers of the fixed filter count, too
    "four_dropouts_and_norms": 208 + 16 + 80 + 16 + 80 + 16 + 90,  # settings of layers are no stored numbers
    "group_norm_and_prelu": 208 + 16 + 8 + 90,
    "log_softmax_head": 80 + 584 + 730,
    "no_grad_block": 7_850 + 1,  # the 2 stands in the code
    "looks_pixels_up": 16 * 8 + 1_608 + 2_890 + 3,  # three numbers stand in the code
    "masks_with_infinity": 3 * 784 + 84 + 784 + 28 + 290 + 2,  # the mask is free
    "one_batch_norm_twice": 208 + 72 + 16 + 90,
    "reads_rows_with_an_lstm": 4 * 8 * (28 + 8 + 2) + 90 + 3,
    "residual_from_zero": 208 + 584 + 1 + 90,
    "shared_layers": 80 + 584 + 72 * 72 + 72 + 72 + 730,
    "spatial_transformer": 784 * 6 + 6 + 7_850,
    "squeeze_and_excite": 208 + 16 + 18 + 24 + 90,
    "stochastic_depth": 208 + 584 + 16 + 90 + 1,  # the rate, 0.75, stands in the code
    "twenty_layers": 208 + 20 * (576 + 16) + 90,
    "votes_over_shifts": 208 + 11_530,
    "weight_norm": 200 + 8 + 8 + 11_520 + 10 + 10,
}


COUNTED |= {
    "norm_after_pooling": 416 + 32 + 170,
    "autocast_inside": 208 + 584 + 90,
    "causal_mask_in_a_buffer": 3 * 232 + 90,  # a mask is free
    "causal_mask_in_forward": 3 * 232 + 90 + 3,  # the sides of the mask, and the scale of attention
    "coordinates_in_a_buffer": 608 + 1_290 + 2 * 14 * 14,
    "cosine_front_end": 16 * 64 + 136 + 2_890,
    "cumulative_batch_norm": 208 + 16 + 584 + 16 + 90,  # statistics and counters are free
    "drawn_with_numpy": 80 + 1_290,
    "drop_path": 136 + 16 + 80 + 90 + 2,  # the rate stands in the code twice
    "fourier_features": 28 * 8 + 4_490 + 2,  # the digits of 2 pi need two units
    "gabor_front_end": 8 * 49 + 16 + 2_010,
    "generalised_mean_pooling": 208 + 584 + 36 + 40 + 1 + 90 + 1,
    "ghost_batch_norm": 208 + 16 + 90,  # statistics of each part are free
    "ghost_batch_norm_of_fifths": 208 + 16 + 90,
    "ghost_norm_in_chunks": 208 + 16 + 90 + 5,  # places of the seven chunks but the first two
    "ghost_norm_in_forward": 208 + 16 + 90 + 1,  # the 2 in the code
    "index_table": 2 * 196 + 64 + 2_250,  # 196 indices are more than are free; each has 64 bits
    "mixture_of_experts": 3 * 208 + 150 + 5_130,
    "names_its_device": 208 + 11_540,
    "orthogonal_head": 208 + 80 + 10 + 100 + 3,  # the base of the transform, and its numbers, count
    "randomised_leaky_relu": 208 + 90 + 3,  # the bounds of the slope: 1/8, and the digits of 1/3, two units
    "place_numbers": 800 + 256 + 32 + 170,  # sixteen places are free
    "prototype_distances": 208 + 8_208 + 160,
    "rounds_after_batch_norm": 416 + 32 + 6_416 + 32 + 2_570 + 4,  # the 3 stands in the code four times
    "sinusoidal_positions": 464 + 2_224 + 170 + 28 * 16 + 3,
    "sinusoidal_positions_by_numpy": 180 + 936 + 130 + 14 * 12 + 1,
    "spectral_norm": 208 + 11_530 + (8 + 25) + (10 + 1_152),  # both vectors of both layers
    "spectrum": 28 * 15 * 2 + 4_210 + 1,
    "straight_through": 208 + 16 + 576 + 90 + 1,  # the 9 stands in the code
    "unfolds_patches": 784 + 1_970,
    "weight_standardisation": 416 + 80 + 72 + 90 + 2,
}
"""Networks that torch.export does not follow, or whose tables, first weights or state are unusual."""


def names(folder: Path) -> set[str]:
    return {file.stem for file in folder.glob("*.py")}


def examine(file: Path) -> Audit:
    architecture = plugins.load(file)
    return inspect(architecture, architecture.knobs).audit


def refusal(name: str) -> tuple[Refusal | None, Ledger | None]:
    """Return the error a bad file ends with, and its ledger where it came that far."""
    ledger = None
    try:
        found, recipe = examine(BAD / f"{name}.py"), plugins.load(BAD / f"{name}.py").recipe
        ledger = found.ledger
        enforce(ledger, recipe, BUDGET)
        refuse_uneven_batches(found.train.module(), recipe.batch_size, str(BAD / f"{name}.py"))
    except Refusal as error:
        return error, ledger
    return None, ledger


def test_every_bad_file_is_listed() -> None:
    assert names(BAD) == set(REFUSED)


def test_every_valid_file_is_listed() -> None:
    assert names(VALID) == set(COUNTED)


SLOWEST = {"numbers_in_settings", "scalars_by_the_thousand", "table_of_sizes"}
"""Files of a thousand operators, seconds to export; a smaller one is refused by the same rule."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough if name in SLOWEST else ()) for name in REFUSED]
)
def test_bad_file_is_refused_by_expected_rule(name: str) -> None:
    error, ledger = refusal(name)
    expected = REFUSED[name]
    assert error is not None, f"{name} passes with {ledger}"
    assert (type(error), error.rule) == (expected.error, expected.rule), error.lines
    if expected.parameters is not None:
        assert ledger is not None
        assert ledger.parameters == expected.parameters
    assert error.message
    assert error.hint
    assert error.where or error.allowed
    if error.where:
        assert error.where.startswith(str(BAD / f"{name}.py"))
    if name in CAUSES:
        line = int(error.where.rpartition(":")[2])
        assert CAUSES[name] in (BAD / f"{name}.py").read_text().splitlines()[line - 1]


@pytest.mark.parametrize("name", ["answers_on_a_device", "images_on_a_device", "network_on_a_device"])
def test_device_hint_says_harness_moves_tensors(name: str) -> None:
    error, _ = refusal(name)
    assert error is not None
    assert "the harness moves" in error.hint.lower()


@pytest.mark.parametrize("name", COUNTED)
def test_valid_oddity_passes_with_exact_count(name: str) -> None:
    found = examine(VALID / f"{name}.py")
    assert found.ledger.parameters == COUNTED[name]
    enforce(found.ledger, Recipe(), BUDGET)


def linear() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def test_audit_leaves_network_unchanged() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), *linear())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    audit(network, "here.py")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_graphs_share_parameters_of_network() -> None:
    network = linear()
    found = audit(network, "here.py")
    images = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        next(network.parameters()).mul_(2)
        for graph in (found.train.module(), found.evaluation.module()):
            torch.testing.assert_close(graph(images), network(images))


# --- one audit for every seed -----------------------------------------------------------------------------

CPU = torch.device("cpu")


def normed(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 5, stride=4), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 10))


def test_graphs_take_weights_of_another_seed() -> None:
    found, other, images = audit(normed(0), "here.py"), normed(1), torch.rand(4, 1, 28, 28)
    graphs = found.graphs(other, CPU)
    with torch.no_grad():
        torch.testing.assert_close(graphs.evaluation(images), other.eval()(images))
        torch.testing.assert_close(graphs.train(images), other.train()(images))
    assert torch.equal(graphs.evaluation.get_buffer("1.running_mean"), other[1].running_mean)


def test_graphs_share_weights_within_one_seed_only() -> None:
    found = audit(normed(0), "here.py")
    first, second = found.graphs(normed(1), CPU), found.graphs(normed(1), CPU)
    assert first.train.get_parameter("0.weight") is first.evaluation.get_parameter("0.weight")
    with torch.no_grad():
        first.train.get_parameter("0.weight").zero_()
    assert bool(first.evaluation.get_parameter("0.weight").eq(0).all())
    assert bool(second.evaluation.get_parameter("0.weight").ne(0).all())


def test_tied_weight_stays_tied() -> None:
    graphs = examine(VALID / "shared_layers.py").own_graphs(CPU)
    assert graphs.train.get_parameter("expand.weight") is graphs.train.get_parameter("squeeze.weight")


def test_frozen_weight_stays_frozen_in_graphs() -> None:
    network = normed(0)
    network[0].weight.requires_grad_(False)
    graphs = audit(network, "here.py").graphs(network, CPU)
    assert not graphs.train.get_parameter("0.weight").requires_grad
    assert graphs.train.get_parameter("0.bias").requires_grad


def test_audit_survives_pickling() -> None:
    network, images = normed(0), torch.rand(4, 1, 28, 28)
    found = audit(network, "here.py")
    again = pickle.loads(pickle.dumps(found))
    assert again.ledger == found.ledger
    for here, there in zip(
        vars(found.graphs(network, CPU)).values(), vars(again.graphs(network, CPU)).values(), strict=True
    ):
        assert torch.equal(here(images), there(images))


# --- the ledger -------------------------------------------------------------------------------------------


def test_ledger_lists_batch_norm_statistics_uncounted() -> None:
    ledger = audit(nn.Sequential(nn.BatchNorm2d(1), *linear()), "here.py").ledger
    listed = [(entry.name, entry.numbers) for entry in ledger.entries if not entry.counted]
    assert listed == [("running_mean", 1), ("running_var", 1), ("num_batches_tracked", 1)]
    assert ledger.parameters == 7_850 + 2


def test_ledger_names_line_of_literal() -> None:
    file = VALID / "counts_size_by_hand.py"
    lines = {entry.layer for entry in examine(file).ledger.entries if entry.kind == "literal"}
    written = [number for number, line in enumerate(file.read_text().splitlines(), 1) if "0.3" in line or "0.1" in line]
    assert lines == {f"{file}:{number}" for number in written}


def test_statistics_stay_free_up_to_their_limit() -> None:
    channels = (FREE_STATISTICS - 1) // 2
    layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 1), nn.Linear(1, channels), nn.BatchNorm1d(channels))
    free = audit(nn.Sequential(layers, nn.Linear(channels, 1), nn.Linear(1, 10)), "here.py").ledger
    assert free.parameters == 785 + 2 * channels + 2 * channels + channels + 1 + 20


def test_parameter_budget_is_inclusive() -> None:
    ledger = audit(linear(), "here.py").ledger
    enforce(ledger, Recipe(), replace(BUDGET, parameters=7_850))
    with pytest.raises(BudgetError, match="7,850"):
        enforce(ledger, Recipe(), replace(BUDGET, parameters=7_849))


def test_budget_allows_at_most_nineteen_epochs() -> None:
    enforce(Ledger(()), Recipe(epochs=19), BUDGET)
    with pytest.raises(BudgetError, match="20 epochs"):
        enforce(Ledger(()), Recipe(epochs=20), BUDGET)


def test_audit_covers_the_scoring_batch() -> None:
    assert max(BATCH.values()) <= LARGEST_BATCH <= MOST_IMAGES


def test_repeated_check_finds_gate_opened_by_training() -> None:
    class Gated(nn.Module):
        share = -torch.ones(())

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            answers = images.flatten(1)[:, :10]
            return torch.where(self.share > 0, answers - answers.mean(0), answers)

    network, images = Gated(), torch.rand(6, 1, 28, 28)
    refuse_batch_dependence(network, images, "here.py")
    network.share = torch.ones(())
    with pytest.raises(AuditError, match="beside other images"):
        refuse_batch_dependence(network, images, "here.py")


@pytest.mark.parametrize("wrapper", [torch.jit.script, nn.DataParallel])
def test_wrapped_network_is_refused(wrapper: type[nn.Module]) -> None:
    with pytest.raises(Refusal):
        audit(wrapper(linear()), "here.py")


def test_mismatched_layer_is_named() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Sequential(nn.ReLU(), nn.Linear(100, 10)))
    with pytest.raises(ContractError, match=r"in layer 1\.1 \(Linear\)"):
        audit(network, "here.py")


def test_half_precision_and_frozen_networks_are_refused() -> None:
    with pytest.raises(ContractError):
        audit(linear().half(), "here.py")
    with pytest.raises(AuditError, match="would learn"):
        audit(linear().requires_grad_(False), "here.py")


# --- networks that torch.export does not follow -----------------------------------------------------------


def trained_a_step(name: str) -> tuple[nn.Module, nn.Module]:
    """Return a valid network and the evaluation graph of its twin, after both have seen the same batch in training."""
    torch.manual_seed(0)
    source = (VALID / f"{name}.py").read_text()
    network, twin = (plugins.execute(source, f"{name}.py").build() for _ in range(2))
    twin.load_state_dict(network.state_dict())
    graphs = audit(twin, f"{name}.py").graphs(twin, CPU)
    for _ in range(3):
        images = torch.randn(8, 1, 28, 28) * torch.arange(1, 9).view(8, 1, 1, 1)
        torch.testing.assert_close(graphs.train(images), network.train()(images))
    return network.eval(), graphs.evaluation


@pytest.mark.parametrize(
    "name", ["autocast_inside", "cumulative_batch_norm", "ghost_batch_norm", "ghost_norm_in_forward", "spectral_norm"]
)
def test_state_moves_as_in_the_network(name: str) -> None:
    network, graph = trained_a_step(name)
    images = torch.rand(5, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(graph(images), network(images))


def split_norm(parts: int) -> GraphModule:
    file = VALID / "ghost_batch_norm.py"
    network = plugins.build_network(plugins.execute(file.read_text(), str(file)), {"splits": parts})
    return export(network, True, str(file)).module()


def uneven(graph: GraphModule, batch_size: int, images: int) -> list[str]:
    with pytest.raises(AuditError) as refused:
        refuse_uneven_batches(graph, batch_size, "here.py", images)
    assert refused.value.rule == "uneven-batch"
    return refused.value.lines


@pytest.mark.parametrize("parts", [2, 3, 4, 5, 8, 16, 32])
def test_split_norm_accepts_the_batches_that_run(parts: int) -> None:
    graph = split_norm(parts)
    assert accepted_sizes(graph, 200) == [*range(2 * parts, 201, parts)]
    assert condition(graph) == f"must split into {parts} equal parts of at least 2 images"
    for count in range(2, 100):
        with contextlib.nullcontext() if accepts(graph, count) else pytest.raises((AssertionError, RuntimeError)):
            graph(made_up_images(count))


def test_uneven_batch_message_names_a_batch_size_that_works() -> None:
    thirds = split_norm(3)
    refuse_uneven_batches(thirds, 126, "here.py")
    assert "3 equal parts" in uneven(thirds, 128, images=1_437)[0]
    assert "one has 128" in uneven(thirds, 128, images=1_437)[0]
    assert "batch_size to 129" in uneven(thirds, 128, images=1_437)[2]
    refuse_uneven_batches(thirds, 129, "here.py", images=1_437)


def test_uneven_batch_message_says_where_none_works() -> None:
    halves = split_norm(2)
    refuse_uneven_batches(halves, 128, "here.py")
    said = uneven(halves, 128, images=1_437)
    assert "one has 29" in said[0]
    assert "No batch_size works for 1,437 images" in said[2]
    assert "maps.chunk(k)" in said[2]


def test_batch_larger_than_the_images_is_one_step() -> None:
    thirds = split_norm(3)
    refuse_uneven_batches(thirds, 2_000, "here.py", images=1_437)
    assert "one has 1,436" in uneven(thirds, 2_000, images=1_436)[0]


def test_chunks_take_the_last_batch_of_digits() -> None:
    graph = examine(VALID / "ghost_norm_in_chunks.py").train.module()
    assert 1_437 % 127 in accepted_sizes(graph)
    assert "batch_size to 127" in uneven(graph, 128, images=1_437)[2]
    refuse_uneven_batches(graph, 127, "here.py", images=1_437)


def test_network_for_any_batch_has_no_condition() -> None:
    graph = export(linear(), True, "here.py").module()
    assert condition(graph) == ""
    refuse_uneven_batches(graph, 2, "here.py", images=60_000)


def test_old_spectral_norm_hint_names_the_new_one() -> None:
    error, _ = refusal("spectral_norm_by_a_hook")
    assert error is not None
    assert "parametrizations.spectral_norm" in error.hint


def test_imaginary_parts_count_as_a_difference() -> None:
    turned = torch.full((3,), 1 + 2j)
    assert relative_distance(turned, turned.clone()) == 0
    assert relative_distance(turned, turned.conj()) == pytest.approx(4 / 5**0.5)


def test_operator_without_a_schema_is_named() -> None:
    said = {name: refusal(name)[0] for name in ("heads_by_vmap", "nested_graph")}
    assert all(error is not None and "0x" not in error.message for error in said.values())
    assert "torch.vmap" in said["heads_by_vmap"].message
    assert "torch.bmm" in said["heads_by_vmap"].hint
    assert "cond" in said["nested_graph"].message


def test_mailbox_hint_says_how_to_write_custom_gradients() -> None:
    error, _ = refusal("straight_through_function")
    assert error is not None
    assert "x + (f(x) - x).detach()" in error.hint


def test_state_message_says_who_may_read_statistics() -> None:
    error, _ = refusal("batch_renorm")
    assert error is not None
    assert "nothing else reads them in training" in error.allowed
    assert "batch renorm" in error.hint


# --- biases that a norm takes away ------------------------------------------------------------------------

CHANNELS = 8


class Applied(nn.Module):
    """A layer without parameters: a function of maps."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, maps: Tensor) -> Tensor:
        return self.function(maps)


def rounded(maps: Tensor) -> Tensor:
    maps = maps.clamp(0, 1)
    return maps + (torch.round(maps * 3) / 3 - maps).detach()


class InParts(nn.Module):
    """Ghost batch norm of two halves."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(16)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([self.norm(part) for part in maps.chunk(2)])


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(16, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        return self.scale * maps


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "between",
    [
        [lambda: nn.BatchNorm2d(16)],
        [lambda: nn.InstanceNorm2d(16)],
        [lambda: nn.BatchNorm2d(16, momentum=None)],
        [InParts],
        [Scaled, lambda: nn.BatchNorm2d(16)],
        [lambda: nn.MaxPool2d(3, 1, 1), lambda: nn.BatchNorm2d(16)],
        [lambda: nn.AvgPool2d(2), lambda: nn.BatchNorm2d(16)],
    ],
    ids=["batch norm", "instance norm", "cumulative", "parts", "scale", "maximum", "mean"],
)
def test_bias_before_a_norm_is_no_mailbox(between: list[Callable[[], nn.Module]], seed: int) -> None:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 16, 5, 2), *(make() for make in between), Applied(rounded), nn.Conv2d(16, 16, 5, 2)]
    network = nn.Sequential(*layers, Applied(rounded), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    refuse_mailboxes(network, export(network, True, "here.py"), "here.py")


class BiasAsMailbox(nn.Module):
    """A term that is lost in rounding writes on a bias; signs of what a norm gives read it."""

    def __init__(self, norm: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.norm = norm
        self.features = nn.Linear(784, 10)
        self.kernels = nn.Parameter(torch.randn(CHANNELS, 1, 5, 5) / 5)
        self.box = nn.Parameter(torch.zeros(CHANNELS))
        self.mix = nn.Parameter(torch.zeros(10))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(F.conv2d(images, self.kernels, self.box, 4))
        read = (maps > 0.5).float().reshape(images.shape[0], -1).mean(1, keepdim=True)
        term = F.pad(self.box, (0, 10 - CHANNELS)) * 1e-12
        return self.features(images.flatten(1)) + term + self.mix * read


def normed_over_batch(maps: Tensor, training: bool = True) -> Tensor:
    channels = maps.shape[1]
    return F.batch_norm(maps, torch.zeros(channels), torch.ones(channels), training=training)


def running_mean(maps: Tensor) -> Tensor:
    mean = torch.zeros(CHANNELS)
    F.batch_norm(maps, mean, torch.ones(CHANNELS), training=True, momentum=1.0)
    return mean.view(1, -1, 1, 1).expand(maps.shape[0], -1, 1, 1)


def copied_in_parts(maps: Tensor) -> Tensor:
    copied = torch.zeros(maps.shape[0], CHANNELS, 6, 6)
    for start in (0, 4):
        copied[:, start : start + 4].copy_(maps[:, start : start + 4])
    return copied


READERS: dict[str, Callable[[Tensor], Tensor]] = {
    "no norm": lambda maps: maps,
    "channels together": lambda maps: normed_over_batch(maps.reshape(-1, 1, 6, 6)),
    "channels as rows": lambda maps: normed_over_batch(maps[:, :6, :, 0].transpose(1, 2)),
    "group norm": lambda maps: F.group_norm(maps, 2),
    "mean of padded maps": lambda maps: normed_over_batch(F.avg_pool2d(maps, 3, 1, 1)),
    "norm by given statistics": lambda maps: normed_over_batch(maps, training=False),
    "one over maps": lambda maps: normed_over_batch(2 / maps),
    "read beside the norm": lambda maps: normed_over_batch(maps) + maps,
    "rounded division": lambda maps: normed_over_batch(torch.div(maps, 2, rounding_mode="floor")),
    "mean that a norm keeps": running_mean,
    "copy in parts": copied_in_parts,
    "scale of each image": lambda maps: normed_over_batch(maps * maps[:, :, :1, :1].detach()),
}


@pytest.mark.parametrize("reader", READERS)
def test_bias_that_a_norm_leaves_is_a_mailbox(reader: str) -> None:
    torch.manual_seed(0)
    network = BiasAsMailbox(READERS[reader])
    with pytest.raises(AuditError) as refused:
        refuse_mailboxes(network, export(network, True, "here.py"), "here.py")
    assert refused.value.rule == "mailbox"
    assert "parameter box" in refused.value.message


def test_signs_behind_a_norm_read_no_bias() -> None:
    torch.manual_seed(0)
    network = BiasAsMailbox(normed_over_batch)
    refuse_mailboxes(network, export(network, True, "here.py"), "here.py")


def test_made_up_images_reach_black_and_white() -> None:
    black, white = ((torch.tensor(byte / 255) - 0.1307) / 0.3081 for byte in (0, 255))
    images = made_up_images(12)
    torch.testing.assert_close(torch.stack([images.min(), images.max()]), torch.stack([black, white]))
    assert 0.3 < (images == images.min()).float().mean() < 0.5
    assert (images == images.max()).any()
    assert torch.equal(images, made_up_images(12))
