// What lies between the convolutions of a training step on a CPU, in as few passes over the maps as it takes.
//
// Maps are `images` rows of `numbers` each, channels last: number k of a row is of channel k % channels. They are
// bfloat16 or float32 in memory and float32 in between. Sums are taken over an image first, then over images in
// their order, so that the number of threads changes no bit.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <vector>

namespace {

using bfloat16 = uint16_t;  // the upper half of a float's bits
using std::vector;

inline float widen(float number) { return number; }

inline float widen(bfloat16 number) {
    const uint32_t bits = uint32_t(number) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

inline void narrow(float number, float& to) { to = number; }

inline void narrow(float number, bfloat16& to) {
    uint32_t bits;
    std::memcpy(&bits, &number, sizeof bits);
    to = bfloat16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to the nearest, ties to even
}

// 1 / (1 + e^-x), by 2^t = 2^round(t) * 2^rest. The polynomial meets 2^rest in Chebyshev's six points of
// [-1/2, 1/2], and is off by at most 1.1e-7 of it.
inline float sigmoid(float x) {
    float t = x * -1.442695041f;
    t = t < -126 ? -126 : t > 128 ? 128 : t;  // 2^128 is infinite, and the result 0
    const float whole = std::rint(t), rest = t - whole;
    float power = 0.00133909f;
    for (const float term : {0.00967603f, 0.05550357f, 0.24022107f, 0.69314719f, 1.00000008f})
        power = power * rest + term;
    const int32_t bits = (int32_t(whole) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return 1 / (1 + power * scale);
}

struct Linear {
    static float value(float x) { return x; }
    static float slope(float) { return 1; }
};

struct Relu {
    static float value(float x) { return x < 0 ? 0 : x; }  // what is not a number stays so
    static float slope(float x) { return x > 0 ? 1 : 0; }
};

struct Silu {
    static float value(float x) { return x * sigmoid(x); }
    static float slope(float x) {
        const float s = sigmoid(x);
        return s * (1 + x * (1 - s));
    }
};

// Lanes that a loop goes on by: a multiple of all channels, so that a lane is always of one channel, and enough for
// sums that do not wait for each other.
int64_t lanes_of(int64_t channels) {
    const int64_t whole = std::lcm(channels, int64_t(16));
    return whole * ((127 + whole) / whole);
}

vector<float> along(int64_t lanes, const float* per_channel, int64_t channels) {
    vector<float> all(lanes);
    for (int64_t start = 0; start < lanes; start += channels)
        for (int64_t channel = 0; channel < channels; channel++) all[start + channel] = per_channel[channel];
    return all;
}

// Calls visit(place, lane) for each number of a row.
template <class Visit>
inline void each(int64_t numbers, int64_t lanes, Visit visit) {
    int64_t start = 0;
    for (; start + lanes <= numbers; start += lanes) {
#pragma omp simd
        for (int64_t lane = 0; lane < lanes; lane++) visit(start + lane, lane);
    }
#pragma omp simd
    for (int64_t lane = 0; lane < numbers - start; lane++) visit(start + lane, lane);
}

void fold(const vector<float>& of_lanes, int64_t channels, float* found) {
    for (size_t start = 0; start < of_lanes.size(); start += channels)
        for (int64_t channel = 0; channel < channels; channel++) found[channel] += of_lanes[start + channel];
}

// Adds up by channel, in `found`, what add(sums) adds to sums of each lane.
template <class Add>
inline void add_up(int64_t lanes, int64_t channels, float* found, Add add) {
    vector<float> of_lanes(lanes);
    add(of_lanes.data());
    fold(of_lanes, channels, found);
}

// --- batch norm, and what follows it ---------------------------------------------------------------------------

template <class Number, class Activation>
void normalise(
    const Number* maps, const float* weight, const float* bias, Number* results, float* mean, float* variance,
    float* inverse, int64_t images, int64_t numbers, int64_t channels, float eps, int64_t threads
) {
    const int64_t lanes = lanes_of(channels), pixels = numbers / channels;
    const double count = double(images) * pixels;
    // An image's mean, and the squares around it while the image is in the cache; then those of all images
    // together (Chan, Golub & LeVeque 1979).
    vector<float> means_of(images * channels), squares_of(images * channels);
#pragma omp parallel for num_threads(threads)
    for (int64_t image = 0; image < images; image++) {
        const Number* row = maps + image * numbers;
        float *own = &means_of[image * channels], *squares = &squares_of[image * channels];
        add_up(lanes, channels, own, [=](float* sum) {
            each(numbers, lanes, [=](int64_t place, int64_t lane) { sum[lane] += widen(row[place]); });
        });
        for (int64_t channel = 0; channel < channels; channel++) own[channel] /= pixels;
        const auto means = along(lanes, own, channels);
        const float* middle = means.data();
        add_up(lanes, channels, squares, [=](float* sum) {
            each(numbers, lanes, [=](int64_t place, int64_t lane) {
                const float centred = widen(row[place]) - middle[lane];
                sum[lane] += centred * centred;
            });
        });
    }
    vector<double> middle_of(channels), spread(channels);
    for (int64_t image = 0; image < images; image++)
        for (int64_t channel = 0; channel < channels; channel++)
            middle_of[channel] += means_of[image * channels + channel] / double(images);
    for (int64_t image = 0; image < images; image++)
        for (int64_t channel = 0; channel < channels; channel++) {
            const double off = means_of[image * channels + channel] - middle_of[channel];
            spread[channel] += squares_of[image * channels + channel] + pixels * off * off;
        }

    vector<float> scale(channels);
    for (int64_t channel = 0; channel < channels; channel++) {
        mean[channel] = middle_of[channel];
        variance[channel] = spread[channel] / count;
        inverse[channel] = 1 / std::sqrt(variance[channel] + eps);
        scale[channel] = inverse[channel] * weight[channel];
    }

    const auto means = along(lanes, mean, channels), scales = along(lanes, scale.data(), channels);
    const auto offsets = along(lanes, bias, channels);
    const float *middle = means.data(), *factor = scales.data(), *offset = offsets.data();
#pragma omp parallel for num_threads(threads)
    for (int64_t image = 0; image < images; image++) {
        const Number* row = maps + image * numbers;
        Number* result = results + image * numbers;
        each(numbers, lanes, [=](int64_t place, int64_t lane) {
            const float normalised = (widen(row[place]) - middle[lane]) * factor[lane] + offset[lane];
            narrow(Activation::value(normalised), result[place]);
        });
    }
}

template <class Number, class Activation>
void normalise_backward(
    const Number* gradients, const Number* maps, const float* weight, const float* bias, const float* mean,
    const float* inverse, Number* for_maps, float* for_weight, float* for_bias, int64_t images, int64_t numbers,
    int64_t channels, int64_t threads
) {
    const int64_t lanes = lanes_of(channels);
    const double count = double(images) * (numbers / channels);
    vector<float> scale(channels);
    for (int64_t channel = 0; channel < channels; channel++) scale[channel] = inverse[channel] * weight[channel];
    const auto means = along(lanes, mean, channels), scales = along(lanes, scale.data(), channels);
    const auto offsets = along(lanes, bias, channels);
    const float *middle = means.data(), *factor = scales.data(), *offset = offsets.data();

    // The gradient before the activation is kept where that of the maps will be.
    vector<float> sums_of(images * 2 * channels);
#pragma omp parallel for num_threads(threads)
    for (int64_t image = 0; image < images; image++) {
        const Number *row = maps + image * numbers, *gradient = gradients + image * numbers;
        Number* before = for_maps + image * numbers;
        float* found = &sums_of[image * 2 * channels];
        vector<float> along_lanes(lanes);
        float* slopes = along_lanes.data();
        add_up(lanes, channels, found, [=](float* sum) {
            each(numbers, lanes, [=](int64_t place, int64_t lane) {
                const float centred = widen(row[place]) - middle[lane];
                const float slope = Activation::slope(centred * factor[lane] + offset[lane]);
                const float kept = widen(gradient[place]) * slope;
                narrow(kept, before[place]);
                sum[lane] += kept;
                slopes[lane] += kept * centred;
            });
        });
        fold(along_lanes, channels, found + channels);
    }
    vector<double> total(2 * channels);
    for (int64_t image = 0; image < images; image++)
        for (int64_t place = 0; place < 2 * channels; place++) total[place] += sums_of[image * 2 * channels + place];
    vector<float> level(channels), along_maps(channels);
    for (int64_t channel = 0; channel < channels; channel++) {
        for_bias[channel] = total[channel];
        for_weight[channel] = total[channels + channel] * inverse[channel];
        level[channel] = total[channel] / count;
        along_maps[channel] = total[channels + channel] * inverse[channel] * inverse[channel] / count;
    }

    const auto levels = along(lanes, level.data(), channels), slopes = along(lanes, along_maps.data(), channels);
    const float *constant = levels.data(), *linear = slopes.data();
#pragma omp parallel for num_threads(threads)
    for (int64_t image = 0; image < images; image++) {
        const Number* row = maps + image * numbers;
        Number* before = for_maps + image * numbers;
        each(numbers, lanes, [=](int64_t place, int64_t lane) {
            const float centred = widen(row[place]) - middle[lane];
            narrow((widen(before[place]) - constant[lane] - centred * linear[lane]) * factor[lane], before[place]);
        });
    }
}

// --- silu alone ------------------------------------------------------------------------------------------------

constexpr int64_t PART = 1 << 14;

template <class Number>
void silu(const Number* maps, Number* results, int64_t count, int64_t threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t start = 0; start < count; start += PART) {
        const int64_t end = count < start + PART ? count : start + PART;
#pragma omp simd
        for (int64_t place = start; place < end; place++) narrow(Silu::value(widen(maps[place])), results[place]);
    }
}

template <class Number>
void silu_backward(const Number* gradients, const Number* maps, Number* for_maps, int64_t count, int64_t threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t start = 0; start < count; start += PART) {
        const int64_t end = count < start + PART ? count : start + PART;
#pragma omp simd
        for (int64_t place = start; place < end; place++)
            narrow(widen(gradients[place]) * Silu::slope(widen(maps[place])), for_maps[place]);
    }
}

// --- max pooling -----------------------------------------------------------------------------------------------

struct Window {
    int64_t height, width, pooled_height, pooled_width;  // of the maps, of the results
    int64_t rows, columns, down, right;                  // of the kernel, of a stride
    int64_t above, left, row_distance, column_distance;  // padding, dilation

    // Whether it is the usual window: two by two, and always on the maps.
    bool is_usual() const {
        return rows == 2 && columns == 2 && row_distance == 1 && column_distance == 1 && above == 0 && left == 0 &&
               (pooled_height - 1) * down + 2 <= height && (pooled_width - 1) * right + 2 <= width;
    }

    // Calls visit(number of the place in the window, pixel of the maps) for each place that lies on the maps.
    template <class Visit>
    inline void each_place(int64_t line, int64_t pixel, bool usual, Visit visit) const {
        if (usual) {
            const int64_t from = line * down * width + pixel * right;
            visit(0, from), visit(1, from + 1), visit(2, from + width), visit(3, from + width + 1);
            return;
        }
        int64_t y = line * down - above;
        int32_t place = 0;
        for (int64_t row = 0; row < rows; row++, y += row_distance) {
            int64_t x = pixel * right - left;
            for (int64_t column = 0; column < columns; column++, x += column_distance, place++)
                if (uint64_t(y) < uint64_t(height) && uint64_t(x) < uint64_t(width)) visit(place, y * width + x);
        }
    }
};

// Calls visit(first channel, how many) for eight channels at a time, and for one by one what is left.
template <class Visit>
inline void each_few(int64_t channels, Visit visit) {
    int64_t channel = 0;
    for (; channel + 8 <= channels; channel += 8) visit(channel, std::integral_constant<int, 8>());
    for (; channel < channels; channel++) visit(channel, std::integral_constant<int, 1>());
}

template <class Number>
void max_pool(
    const Number* maps, Number* results, int32_t* places, const Window& window, int64_t images, int64_t channels,
    int64_t threads
) {
    const bool usual = window.is_usual();
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < images * window.pooled_height; row++)
        for (int64_t pixel = 0; pixel < window.pooled_width; pixel++)
            each_few(channels, [=](int64_t channel, auto few) {
                const int64_t line = row % window.pooled_height, image = row / window.pooled_height;
                const int64_t result = (row * window.pooled_width + pixel) * channels + channel;
                const Number* first = maps + image * window.height * window.width * channels + channel;
                float most[few];
                int32_t found[few];
                for (int lane = 0; lane < few; lane++) most[lane] = 0, found[lane] = -1;
                window.each_place(line, pixel, usual, [&](int32_t place, int64_t from) {
                    const Number* read = first + from * channels;
#pragma omp simd
                    for (int lane = 0; lane < few; lane++) {
                        const float value = widen(read[lane]);
                        const bool is_more = value > most[lane] || value != value || found[lane] < 0;
                        most[lane] = is_more ? value : most[lane];
                        found[lane] = is_more ? place : found[lane];
                    }
                });
#pragma omp simd
                for (int lane = 0; lane < few; lane++) {
                    narrow(most[lane], results[result + lane]);
                    places[result + lane] = found[lane];
                }
            });
}

template <class Number>
void max_pool_backward(
    const Number* gradients, const int32_t* places, Number* for_maps, const Window& window, int64_t images,
    int64_t channels, int64_t threads
) {
    const int64_t numbers = window.height * window.width * channels;
    const bool usual = window.is_usual();
#pragma omp parallel for num_threads(threads)
    for (int64_t image = 0; image < images; image++) {
        vector<float> sum(numbers);
        float* first = sum.data();
        for (int64_t line = 0; line < window.pooled_height; line++)
            for (int64_t pixel = 0; pixel < window.pooled_width; pixel++)
                each_few(channels, [=](int64_t channel, auto few) {
                    const int64_t row = image * window.pooled_height + line;
                    const int64_t result = (row * window.pooled_width + pixel) * channels + channel;
                    window.each_place(line, pixel, usual, [=](int32_t place, int64_t to) {
                        float* written = first + to * channels + channel;
#pragma omp simd
                        for (int lane = 0; lane < few; lane++)
                            written[lane] += places[result + lane] == place ? widen(gradients[result + lane]) : 0.0f;
                    });
                });
        Number* written = for_maps + image * numbers;
#pragma omp simd
        for (int64_t place = 0; place < numbers; place++) narrow(first[place], written[place]);
    }
}

}  // namespace

// --- as Python finds them: for each kind of number, by activation where one is applied -----------------------------

#define FOR_NUMBERS(Number, kind)                                                                               \
    extern "C" void* const normalise_##kind[] = {                                                               \
        (void*)normalise<Number, Linear>, (void*)normalise<Number, Relu>, (void*)normalise<Number, Silu>        \
    };                                                                                                          \
    extern "C" void* const normalise_backward_##kind[] = {                                                      \
        (void*)normalise_backward<Number, Linear>, (void*)normalise_backward<Number, Relu>,                     \
        (void*)normalise_backward<Number, Silu>                                                                 \
    };                                                                                                          \
    extern "C" void* const silu_##kind[] = {(void*)silu<Number>};                                               \
    extern "C" void* const silu_backward_##kind[] = {(void*)silu_backward<Number>};                             \
    extern "C" void* const max_pool_##kind[] = {(void*)max_pool<Number>};                                       \
    extern "C" void* const max_pool_backward_##kind[] = {(void*)max_pool_backward<Number>};

FOR_NUMBERS(bfloat16, bfloat16)
FOR_NUMBERS(float, float32)
