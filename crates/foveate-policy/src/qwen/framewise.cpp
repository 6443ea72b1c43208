// Attention on a CPU that sums the weights of each frame up while they are there.
//
// Blocks of rows go over blocks of columns with a running maximum (Dao 2023, arXiv 2307.08691, algorithm 1), so that
// a thread holds no more than a block of weights. Products are libtorch's; weights are powers of two.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "../native.h"

// Compiled for processors with AVX-512, with AVX2 and without; the right one is picked when the program starts.
#if defined(__x86_64__) && !defined(__clang__)
#define EVERY_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EVERY_PROCESSOR
#endif

extern "C" {

// Consecutive columns of one frame.
struct foveate_run {
    int64_t first, end, frame;
};

// What rows see. Row i sees the first `first + i / step` columns of all, and all of them at most.
struct foveate_sight {
    int64_t first, step;
    const foveate_run *runs; // in the order of their columns
    size_t count;
};
}

namespace {

constexpr float LN2 = 0.6931471805599453f, NOTHING = -std::numeric_limits<float>::infinity();
// Of a block: up to 512 KiB of weights, which a core's second cache should hold. Products of fewer rows take longer a row.
constexpr int64_t MOST_ROWS = 256, LEAST_ROWS = 64, COLUMNS = 512;

// 2^x of x <= 0, to two units in the last place; what is below 2^-126 becomes 2^-126.
inline float power_of_two(float x) {
    float clamped = x < -126.0f ? -126.0f : x;
    float shifted = clamped + 12582912.0f; // 1.5 * 2^23: its last bits are the nearest integer
    float rest = clamped - (shifted - 12582912.0f);
    // Taylor's series of 2^rest, |rest| <= 1/2.
    float power = 1.5252733804059841e-5f;
    power = power * rest + 1.5403530393381610e-4f;
    power = power * rest + 1.3333558146428443e-3f;
    power = power * rest + 9.6181291076284772e-3f;
    power = power * rest + 5.5504108664821580e-2f;
    power = power * rest + 2.4022650695910071e-1f;
    power = power * rest + 6.9314718055994531e-1f;
    power = power * rest + 1.0f;
    uint32_t exponent, bits;
    std::memcpy(&exponent, &shifted, sizeof exponent);
    std::memcpy(&bits, &power, sizeof bits);
    bits += exponent << 23;
    std::memcpy(&power, &bits, sizeof power);
    return x == x ? power : x; // what is no number stays none
}

EVERY_PROCESSOR float largest(const float *scores, int64_t count, float most) {
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < count; ++i) most = scores[i] > most ? scores[i] : most;
    return most;
}

// Turns scores into weights 2^(score - maximum) and gives their sum.
EVERY_PROCESSOR float weigh(float *scores, int64_t count, float maximum) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) {
        scores[i] = power_of_two(scores[i] - maximum);
        sum += scores[i];
    }
    return sum;
}

// Adds the weights of the columns from `column` on to the mass of their frames.
EVERY_PROCESSOR void add_frames(const float *weights, int64_t count, int64_t column, const foveate_run *run,
                                const foveate_run *last, float *mass) {
    for (; run != last; ++run) {
        const int64_t first = std::max(run->first - column, int64_t{0}), end = std::min(run->end - column, count);
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = first; i < end; ++i) sum += weights[i];
        mass[run->frame] += sum;
    }
}

EVERY_PROCESSOR void multiply(float *numbers, int64_t count, float factor) {
    for (int64_t i = 0; i < count; ++i) numbers[i] *= factor;
}

// A block of rows with what they have added up so far, in units of 2^maximum.
struct Block {
    int64_t first, count, width, frames;
    float *out, *mass; // [count, width], [count, frames], where the caller wants them
    float maximum[MOST_ROWS], total[MOST_ROWS];
    const foveate_sight &sight;
    int64_t columns;

    // Columns that a row of the block sees.
    int64_t seen(int64_t row) const { return std::min(columns, sight.first + (first + row) / sight.step); }

    // Turns the scores [count, here] of the columns from `column` on into weights, and adds these up.
    void weigh_rows(float *scores, int64_t here, int64_t column, const foveate_run *run, const foveate_run *last) {
        for (int64_t row = 0; row < count; ++row, scores += here) {
            const int64_t visible = std::clamp<int64_t>(seen(row) - column, 0, here);
            std::fill(scores + visible, scores + here, 0.0f);
            if (visible == 0) continue;
            const float before = maximum[row];
            maximum[row] = largest(scores, visible, before);
            if (maximum[row] != before) {
                const float kept = before == NOTHING ? 0.0f : std::exp2(before - maximum[row]);
                multiply(out + row * width, width, kept);
                multiply(mass + row * frames, frames, kept);
                total[row] *= kept;
            }
            total[row] += weigh(scores, visible, maximum[row]);
            add_frames(scores, visible, column, run, last, mass + row * frames);
        }
    }

    // The same of all columns, whose keys and values are [S, E]; `sums` is the tensor whose numbers `out` points at.
    void attend(const at::Tensor &queries, const at::Tensor &keys, const at::Tensor &values, at::Tensor sums,
                const at::Tensor &room) {
        const foveate_run *end = sight.runs + sight.count, *run = sight.runs;
        const int64_t most = seen(count - 1);
        for (int64_t column = 0; column < most; column += COLUMNS) {
            const int64_t here = std::min(COLUMNS, most - column);
            while (run != end && run->end <= column) ++run;
            const foveate_run *last = run;
            while (last != end && last->first < column + here) ++last;
            at::Tensor weights = room.narrow(0, 0, count * here).view({count, here});
            at::mm_out(weights, queries, keys.narrow(0, column, here).t());
            weigh_rows(weights.data_ptr<float>(), here, column, run, last);
            sums.addmm_(weights, values.narrow(0, column, here));
        }
    }

    // From the log-sum-exp of the columns before.
    void begin(const float *lse) {
        for (int64_t row = 0; row < count; ++row) {
            maximum[row] = lse[row] / LN2;
            total[row] = lse[row] == NOTHING ? 0.0f : 1.0f;
        }
    }

    // Makes sums means, and gives the log-sum-exp of all.
    void finish(float *lse) {
        for (int64_t row = 0; row < count; ++row) {
            multiply(out + row * width, width, 1.0f / total[row]);
            multiply(mass + row * frames, frames, 1.0f / total[row]);
            lse[row] = (maximum[row] + std::log2(total[row])) * LN2;
        }
    }
};

} // namespace

extern "C" {

// Adds columns to what rows have attended to. q [B, M, E] is scaled so that scores are binary logarithms; k, v [B, S, E].
// out [B, M, E] and the log-sum-exp lse [B, M] (natural) are those of the columns before: 0 and -infinity without any;
// mass [B, M, F] is 0 before. All are f32; q, out, lse and mass are contiguous.
int foveate_framewise(const at::Tensor *q, const at::Tensor *k, const at::Tensor *v, foveate_sight sight, at::Tensor *out,
                      at::Tensor *lse, at::Tensor *mass, char *message, size_t size) {
    return guarded(message, size, [&] {
        const int64_t batch = q->size(0), rows = q->size(1), width = q->size(2), columns = k->size(1);
        const int64_t frames = mass->size(2);
        // Blocks are lower where a thread would have fewer than three of the highest.
        const int64_t share = batch * rows / (3 * at::get_num_threads());
        const int64_t height = std::clamp(share / LEAST_ROWS * LEAST_ROWS, LEAST_ROWS, MOST_ROWS);
        const int64_t blocks = (rows + height - 1) / height;
        float *all_out = out->data_ptr<float>(), *all_lse = lse->data_ptr<float>(), *all_mass = mass->data_ptr<float>();
        at::parallel_for(0, batch * blocks, 1, [&](int64_t begin, int64_t end) {
            c10::AutoGradMode no_gradients(false);
            const at::Tensor room = at::empty({height * COLUMNS}, q->options());
            for (int64_t index = begin; index < end; ++index) {
                const int64_t group = index / blocks, first = index % blocks * height;
                const int64_t count = std::min(height, rows - first);
                const int64_t row = group * rows + first;
                float *block_out = all_out + row * width, *block_mass = all_mass + row * frames;
                Block block{first, count, width, frames, block_out, block_mass, {}, {}, sight, columns};
                const auto part = [&](const at::Tensor &all) { return all.select(0, group).narrow(0, first, count); };
                block.begin(all_lse + row);
                block.attend(part(*q), k->select(0, group), v->select(0, group), part(*out), room);
                block.finish(all_lse + row);
            }
        });
    });
}
}
