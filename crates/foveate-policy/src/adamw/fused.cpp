// Operations on lists of tensors that libtorch has and tch does not bind.

#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

#include "../native.h"

namespace {

std::vector<at::Tensor> list(at::Tensor *const *tensors, size_t count) {
    std::vector<at::Tensor> all;
    all.reserve(count);
    for (size_t i = 0; i < count; ++i) all.push_back(*tensors[i]);
    return all;
}

} // namespace

extern "C" {

struct foveate_adamw {
    double lr, beta1, beta2, weight_decay, eps;
};

// The Euclidean norm of all tensors together.
int foveate_norm(at::Tensor *const *tensors, size_t count, double *norm, char *message, size_t size) {
    return guarded(message, size, [&] {
        auto norms = at::_foreach_norm(list(tensors, count), 2, at::kFloat);
        *norm = at::linalg_vector_norm(at::stack(norms)).item<double>();
    });
}

// One AdamW step; gradients are divided by `scale`. Lists are of equal length, `steps` holding the number of this step.
int foveate_adamw_step(at::Tensor *const *parameters, at::Tensor *const *gradients, at::Tensor *const *first,
                       at::Tensor *const *second, at::Tensor *const *steps, size_t count, const at::Tensor *scale,
                       foveate_adamw options, char *message, size_t size) {
    return guarded(message, size, [&] {
        std::vector<at::Tensor> all = list(parameters, count);
        std::vector<at::Tensor> at_all = list(gradients, count), moments = list(first, count);
        std::vector<at::Tensor> squares = list(second, count), counts = list(steps, count);
        at::_fused_adamw_(all, at_all, moments, squares, {}, counts, options.lr, options.beta1, options.beta2,
                          options.weight_decay, options.eps, /*amsgrad=*/false, /*maximize=*/false, *scale,
                          /*found_inf=*/std::nullopt);
    });
}
}
