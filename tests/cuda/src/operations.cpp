// The stand-in's operations: those of the CPU on the same memory. What must be right for a real device is held to here:
// tensors of the host and of the device do not mix, what a CUDA kernel refuses is refused, what it adds up in any order too, and
// it is counted how often the host waits for the device. The kernels' rounding and speed are a real device's own.

#include <cstring>
#include <limits>
#include <map>
#include <set>

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <torch/library.h>

namespace {

using at::Tensor;
using c10::DeviceType;
using c10::DispatchKeySet;
using c10::IValue;

thread_local uint64_t waits = 0;
thread_local uint64_t uploads = 0;

// A tensor of other memory, or of the same under another name, with the sizes and strides of one.
Tensor like(const Tensor &tensor, c10::Storage storage) {
    auto key = storage.device().is_cuda() ? c10::DispatchKey::CUDA : c10::DispatchKey::CPU;
    auto result = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), DispatchKeySet(key), tensor.dtype());
    result.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
    return result;
}

// The device's memory under the host's name.
c10::Storage on_host(const c10::Storage &held) {
    auto release = [](void *context) { delete static_cast<c10::Storage *>(context); };
    c10::DataPtr data(held.mutable_data(), new c10::Storage(held), release, c10::Device(DeviceType::CPU));
    auto size = c10::Storage::use_byte_size_t();
    return c10::Storage(size, held.nbytes(), std::move(data), c10::GetAllocator(DeviceType::CPU), true);
}

Tensor on_host(const Tensor &tensor) { return tensor.is_cuda() ? like(tensor, on_host(tensor.storage())) : tensor; }

// Brings what an operation has made into the device's memory, where it counts.
Tensor on_device(const Tensor &tensor) {
    if (!tensor.defined() || tensor.is_cuda()) return tensor;
    size_t bytes = tensor.storage().nbytes();
    c10::Allocator *memory = c10::GetAllocator(DeviceType::CUDA);
    c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, memory->allocate(bytes), memory, true);
    if (bytes) std::memcpy(storage.mutable_data(), tensor.storage().data(), bytes);
    return like(tensor, std::move(storage));
}

// Kernels of CUDA that there are for floating-point numbers only.
bool floats_only(const std::string &name) {
    static const std::set<std::string> names{
        "aten::addmm", "aten::addmv", "aten::baddbmm", "aten::bmm", "aten::dot", "aten::mm", "aten::mv"};
    return names.count(name) > 0;
}

// Refuses to add up in any order what is added up in one on a CPU: results would differ from run to run.
void check_order(const std::string &name, const std::vector<IValue> &given) {
    auto alone = [](const Tensor &index, int64_t dim) {
        Tensor sorted = std::get<0>(on_host(index).sort(dim));
        return (sorted.diff(1, dim) != 0).all().item<bool>();
    };
    if (name == "aten::index_add") TORCH_CHECK(alone(given[2].toTensor(), 0), name, ": an index occurs twice");
    if (name == "aten::scatter_add") {
        TORCH_CHECK(alone(given[2].toTensor(), given[1].toInt()), name, ": an index occurs twice");
    }
    if (name == "aten::cumsum" && given[0].toTensor().is_floating_point()) {
        const Tensor &sums = given[0].toTensor();
        TORCH_CHECK(sums.numel() <= 1 || sums.numel() > sums.size(given[1].toInt()), name, " of a single row");
    }
}

// Puts the host's tensors in the place of the device's in a call's arguments.
struct Arguments {
    const c10::OperatorHandle &operation;
    std::map<c10::StorageImpl *, c10::Storage> storages = {}; // what is one there is one here: they may overlap

    void check(const Tensor &tensor, bool written) {
        const auto &name = operation.schema().operator_name();
        // As libtorch lets a number of the host stand beside tensors of the device where elements are worked on one by one.
        bool number = tensor.dim() == 0 && operation.hasTag(at::Tag::pointwise) && !written;
        TORCH_CHECK(
            tensor.is_cuda() || number, name, ": expected all tensors on cuda:0, got one of the host, ", tensor.sizes());
        TORCH_CHECK(
            !floats_only(name.name) || tensor.is_floating_point(), name, " is not implemented for ", tensor.dtype());
    }

    Tensor host(const Tensor &tensor, bool written) {
        if (!tensor.defined()) return tensor;
        check(tensor, written);
        if (tensor.is_cpu()) return tensor;
        auto *held = tensor.storage().unsafeGetStorageImpl();
        auto known = storages.find(held);
        if (known == storages.end()) known = storages.emplace(held, on_host(tensor.storage())).first;
        return like(tensor, known->second);
    }

    IValue host(const IValue &value, bool written) {
        if (value.isTensor()) return host(value.toTensor(), written);
        if (value.isDevice()) return c10::Device(DeviceType::CPU);
        if (value.isTensorList()) {
            c10::List<Tensor> list;
            for (const Tensor &tensor : value.toTensorVector()) list.push_back(host(tensor, written));
            return list;
        }
        if (value.isOptionalTensorList()) {
            c10::List<std::optional<Tensor>> list;
            for (const std::optional<Tensor> &tensor : value.toOptionalTensorVector()) {
                list.push_back(tensor ? std::optional<Tensor>(host(*tensor, written)) : std::nullopt);
            }
            return list;
        }
        return value;
    }
};

// What an operation made of one of its arguments, given back to the tensor of the device.
void give_back(const Tensor &given, const Tensor &worked_on) {
    if (worked_on.storage().data() != given.storage().data()) { // it needed more memory
        c10::Storage storage = on_device(worked_on).storage();
        given.storage().set_data_ptr_noswap(std::move(storage.unsafeGetStorageImpl()->mutable_data_ptr()));
        given.storage().set_nbytes(storage.nbytes());
    }
    if (worked_on.sizes() != given.sizes() || worked_on.strides() != given.strides()) {
        given.unsafeGetTensorImpl()->set_sizes_and_strides(
            worked_on.sizes(), worked_on.strides(), worked_on.storage_offset());
    }
}

// The argument that a result is, or is a view of; none if it is new.
const IValue *source(const c10::Argument &result, const c10::FunctionSchema &schema, const std::vector<IValue> &given) {
    if (!result.alias_info()) return nullptr;
    for (size_t index = 0; index < given.size(); ++index) {
        const auto *alias = schema.arguments()[index].alias_info();
        if (alias && *alias == *result.alias_info()) return &given[index];
    }
    return nullptr;
}

IValue result(const IValue &value, const IValue *source) {
    if (value.isTensor()) {
        const Tensor &made = value.toTensor();
        if (!source || !made.defined()) return on_device(made);
        const Tensor &given = source->toTensor();
        bool same = made.sizes() == given.sizes() && made.strides() == given.strides() && made.dtype() == given.dtype() &&
                    made.storage_offset() == given.storage_offset();
        return same ? given : like(made, given.storage());
    }
    if (value.isTensorList()) {
        TORCH_CHECK(!source, "not part of the stand-in: a list of views");
        c10::List<Tensor> list;
        for (const Tensor &tensor : value.toTensorVector()) list.push_back(on_device(tensor));
        return list;
    }
    return value;
}

// Any operation without one of its own below.
void on_the_cpu(const c10::OperatorHandle &operation, torch::jit::Stack *stack) {
    const auto &schema = operation.schema();
    const size_t count = schema.arguments().size();
    const std::vector<IValue> given(stack->end() - static_cast<int64_t>(count), stack->end());
    auto written = [&](size_t index) {
        const auto *alias = schema.arguments()[index].alias_info();
        return alias && alias->isWrite();
    };
    Arguments arguments{operation};
    std::vector<IValue> host;
    for (size_t index = 0; index < count; ++index) host.push_back(arguments.host(given[index], written(index)));
    check_order(schema.name(), given);
    // The host then holds a value, or a size, that the device has computed.
    waits += operation.hasTag(at::Tag::data_dependent_output) || operation.hasTag(at::Tag::dynamic_output_shape);
    torch::jit::drop(*stack, count);
    stack->insert(stack->end(), host.begin(), host.end());
    {
        at::AutoDispatchBelowADInplaceOrView below;
        operation.callBoxed(stack);
    }
    for (size_t index = 0; index < count; ++index) {
        if (written(index) && given[index].isTensor() && given[index].toTensor().defined()) {
            give_back(given[index].toTensor(), host[index].toTensor());
        }
    }
    const auto &results = schema.returns();
    IValue *first = stack->data() + stack->size() - results.size();
    for (size_t index = 0; index < results.size(); ++index) {
        first[index] = result(first[index], source(results[index], schema, given));
    }
}

Tensor empty(
    at::IntArrayRef size,
    std::optional<at::ScalarType> type,
    std::optional<at::Layout>,
    std::optional<at::Device>,
    std::optional<bool>,
    std::optional<at::MemoryFormat> format) {
    return at::detail::empty_generic(
        size, c10::GetAllocator(DeviceType::CUDA), DispatchKeySet(c10::DispatchKey::CUDA),
        c10::dtype_or_default(type), format);
}

Tensor empty_strided(
    at::IntArrayRef size,
    at::IntArrayRef stride,
    std::optional<at::ScalarType> type,
    std::optional<at::Layout>,
    std::optional<at::Device>,
    std::optional<bool>) {
    return at::detail::empty_strided_generic(
        size, stride, c10::GetAllocator(DeviceType::CUDA), DispatchKeySet(c10::DispatchKey::CUDA),
        c10::dtype_or_default(type));
}

Tensor &copy(Tensor &to, const Tensor &from, bool) {
    waits += to.is_cpu();
    uploads += from.is_cpu();
    Tensor host = on_host(to);
    at::AutoDispatchBelowADInplaceOrView below;
    host.copy_(on_host(from));
    return to;
}

// As the memory-efficient kernel has it: what it refuses, and a log-sum-exp whose rows are padded to a multiple of 32.
std::tuple<Tensor, Tensor, Tensor, Tensor> efficient_attention(
    const Tensor &q, // [B, H, Q, E]
    const Tensor &k, // [B, H, S, E]
    const Tensor &v,
    const std::optional<Tensor> &bias,
    bool with_lse,
    double dropout,
    bool causal,
    std::optional<double> scale) {
    TORCH_CHECK(!bias && dropout == 0.0, "not part of the stand-in");
    TORCH_CHECK(q.numel() > 0 && k.numel() > 0, "no rows or no columns: ", q.sizes(), " over ", k.sizes());
    for (const Tensor *x : {&q, &k, &v}) {
        TORCH_CHECK(x->is_cuda() && x->dim() == 4, "expected [B, H, S, E] on cuda:0, got ", x->sizes());
        TORCH_CHECK(x->scalar_type() == q.scalar_type(), "q, k and v are of different types");
        TORCH_CHECK(x->size(0) == q.size(0) && x->size(1) == q.size(1), "q, k and v differ in batch or heads");
        TORCH_CHECK(x->stride(3) == 1, "the last dimension must be contiguous");
        // Else the real one takes its slow way, or none.
        auto aligned = 16 / static_cast<int64_t>(x->itemsize());
        bool steps = x->stride(1) % aligned == 0 && x->stride(2) % aligned == 0;
        TORCH_CHECK(steps && x->storage_offset() % aligned == 0, "not aligned to 16 bytes: ", x->strides());
    }
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor host_q = on_host(q).to(at::kFloat), host_k = on_host(k).to(at::kFloat), host_v = on_host(v).to(at::kFloat);
    Tensor scores = host_q.matmul(host_k.transpose(2, 3)) * scale.value_or(1.0 / std::sqrt(static_cast<double>(q.size(3))));
    if (causal) {
        Tensor hidden = at::ones({q.size(2), k.size(2)}, at::kBool).triu(1);
        scores.masked_fill_(hidden, -std::numeric_limits<double>::infinity());
    }
    Tensor out = scores.softmax(-1).matmul(host_v).to(q.scalar_type());
    // Its memory is [B, Q, H, E].
    out = out.transpose(1, 2).contiguous().transpose(1, 2);
    auto rows = with_lse ? (q.size(2) + 31) / 32 * 32 : 0;
    Tensor lse = at::full({q.size(0), q.size(1), rows}, std::numeric_limits<double>::quiet_NaN(), at::kFloat);
    if (with_lse) lse.narrow(2, 0, q.size(2)).copy_(scores.logsumexp(-1));
    Tensor none = at::zeros({}, at::kLong);
    return {on_device(out), on_device(lse), none, none};
}

// Sums in f32 of products of bf16 factors; there is no such kernel for a CPU.
Tensor wide_product(const Tensor &a, const Tensor &b, at::ScalarType type) {
    TORCH_CHECK(a.is_cuda() && b.is_cuda(), "bmm.dtype: expected both factors on cuda:0");
    TORCH_CHECK(a.dim() == 3 && b.dim() == 3, "bmm.dtype: expected [B, M, K] and [B, K, N]");
    bool wider = type == at::kFloat && a.scalar_type() == at::kBFloat16;
    TORCH_CHECK(wider && b.scalar_type() == a.scalar_type(), "bmm.dtype: of ", a.dtype(), " and ", b.dtype());
    at::AutoDispatchBelowADInplaceOrView below;
    return on_device(on_host(a).to(type).bmm(on_host(b).to(type)));
}

Tensor &wide_product_within(const Tensor &a, const Tensor &b, at::ScalarType type, Tensor &out) {
    Tensor product = wide_product(a, b, type);
    TORCH_CHECK(out.is_cuda() && out.scalar_type() == type, "bmm.dtype_out: into ", out.dtype());
    // The real one looks at neither, and copies what does not lie row by row.
    TORCH_CHECK(out.sizes() == product.sizes(), "bmm.dtype_out: ", product.sizes(), " into ", out.sizes());
    TORCH_CHECK(out.stride(2) == 1 && out.stride(1) >= out.size(2), "bmm.dtype_out: strides ", out.strides());
    return out.copy_(product);
}

Tensor wide_sum(
    const Tensor &bias,
    const Tensor &a,
    const Tensor &b,
    at::ScalarType type,
    const at::Scalar &beta,
    const at::Scalar &alpha) {
    Tensor product = wide_product(a, b, type);
    TORCH_CHECK(bias.is_cuda() && bias.sizes() == product.sizes(), "baddbmm.dtype: a bias of ", bias.sizes());
    at::AutoDispatchBelowADInplaceOrView below;
    return on_device(on_host(bias).to(type) * beta + on_host(product) * alpha);
}

int64_t chosen_attention(
    const Tensor &q,
    const Tensor &k,
    const Tensor &v,
    const std::optional<Tensor> &mask,
    double,
    bool,
    std::optional<double>,
    bool) {
    // The kernel above, which has no gradient here, or explicit weights.
    bool differentiated = at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
    auto way = differentiated || mask ? at::SDPBackend::math : at::SDPBackend::efficient_attention;
    return static_cast<int64_t>(way);
}

} // namespace

namespace at::native {
REGISTER_CUDA_DISPATCH(_fused_sdp_choice_stub, &chosen_attention)
}

TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&on_the_cpu>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
    library.impl("empty.memory_format", empty);
    library.impl("empty_strided", empty_strided);
    library.impl("copy_", copy);
    library.impl("_scaled_dot_product_efficient_attention", efficient_attention);
    library.impl("bmm.dtype", wide_product);
    library.impl("bmm.dtype_out", wide_product_within);
    library.impl("baddbmm.dtype", wide_sum);
    // libtorch would take these apart into kernels of cuDNN and of its own.
    library.impl("convolution", torch::CppFunction::makeFromBoxedFunction<&on_the_cpu>());
    library.impl("convolution_backward", torch::CppFunction::makeFromBoxedFunction<&on_the_cpu>());
    // These are the same for both devices, or touch memory through its allocator only.
    library.impl("as_strided", at::native::as_strided_tensorimpl);
    library.impl("view", at::native::view);
    library.impl("_reshape_alias", at::native::_reshape_alias);
    library.impl("resize_", at::native::resize_);
    library.impl("set_.source_Storage_storage_offset", at::native::set_storage_cpu_);
    library.impl("set_.source_Tensor", at::native::set_tensor_);
}

// How often this thread has waited for something that the device computes, and how often it has sent a tensor there.
extern "C" uint64_t stand_in_waits() { return waits; }
extern "C" uint64_t stand_in_uploads() { return uploads; }
