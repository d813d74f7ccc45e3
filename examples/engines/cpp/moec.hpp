// A layer's library in C++17: what creates also destroys, and errors are exceptions. Copy this file into your engine.
#pragma once

#include "moec_abi.h"

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace moec {

// What the library says of its last error, and MOEC_E_*.
class Error : public std::runtime_error {
public:
    Error(moec_status status, const std::string &text) : std::runtime_error(text), status_(status) {}
    moec_status status() const { return status_; }

private:
    moec_status status_;
};

template <class T> constexpr moec_dtype dtype_of();
template <> constexpr moec_dtype dtype_of<float>() { return {2, 32, 1}; }
template <> constexpr moec_dtype dtype_of<std::int32_t>() { return {0, 32, 1}; }

// Memory of the engine, row-major without gaps.
class Tensor {
public:
    template <class T>
    Tensor(T *data, std::initializer_list<std::int64_t> shape, moec_device device = {MOEC_CPU, 0})
        : Tensor(const_cast<std::remove_const_t<T> *>(data), dtype_of<std::remove_const_t<T>>(), shape, device) {}
    // Of types that C++ has no name for, such as bf16.
    Tensor(void *data, moec_dtype dtype, std::vector<std::int64_t> shape, moec_device device)
        : shape_(std::move(shape)), tensor_{data, device, static_cast<std::int32_t>(shape_.size()), dtype, nullptr, nullptr, 0} {}
    moec_tensor get() const {
        moec_tensor tensor = tensor_;
        tensor.shape = const_cast<std::int64_t *>(shape_.data());
        return tensor;
    }

private:
    std::vector<std::int64_t> shape_;
    moec_tensor tensor_;
};

// Host memory as the library wants it aligned. On a GPU the engine's own allocator takes this place.
class Memory {
public:
    Memory(std::size_t bytes, std::size_t align)
        : bytes_(bytes), data_(::operator new(bytes ? bytes : 1, std::align_val_t{align}), Free{align}) {}
    void *data() const { return data_.get(); }
    std::size_t bytes() const { return bytes_; }

private:
    struct Free {
        std::size_t align;
        void operator()(void *data) const { ::operator delete(data, std::align_val_t{align}); }
    };
    std::size_t bytes_;
    std::unique_ptr<void, Free> data_;
};

// A layer on one device. Any number of threads may use it.
class Layer {
public:
    explicit Layer(moec_get_api_fn get_api, moec_options options = {}) : api_(get_api(MOEC_ABI_VERSION)), handle_(nullptr, Destroy{api_}) {
        if (!api_) throw Error(MOEC_E_ABI, "the library has another ABI than moec_abi.h");
        options.struct_size = sizeof options;
        moec_handle *handle = nullptr;
        check(api_->create(&options, &handle));
        handle_.reset(handle);
    }
    const moec_info &info() const { return *api_->info(); }
    std::string target() const { return api_->target(handle_.get()); }

    // What a run of T tokens needs; a run of fewer needs no more.
    Memory workspace(std::int64_t tokens, std::int64_t sequence_tokens = 0) const {
        moec_dims dims{sizeof dims, tokens, sequence_tokens};
        std::size_t bytes = 0, align = 0;
        check(api_->workspace_size(api_->target(handle_.get()), &dims, &bytes, &align));
        return {bytes, align};
    }

    // Weights in the order of info().params. Their memory must stay while the layer is in use.
    void bind(const std::vector<Tensor> &weights, void *stream = nullptr) {
        std::size_t bytes = 0, align = 0;
        check(api_->prepared_size(api_->target(handle_.get()), &bytes, &align));
        if (bytes > 0 && target().rfind("sm_", 0) == 0) throw Error(MOEC_E_ARG, "prepared memory of a GPU is the engine's: give it to api->bind");
        auto prepared = std::make_unique<Memory>(bytes, align);
        const Pointers pointers(weights);
        moec_bind_args args{};
        args.struct_size = sizeof args;
        args.weights = pointers.data();
        args.num_weights = pointers.size();
        args.prepared = prepared->data();
        args.prepared_bytes = bytes;
        args.stream = stream;
        moec_binding *binding = nullptr;
        check(api_->bind(handle_.get(), &args, &binding));
        binding_ = {binding, Unbind{api_}};
        prepared_ = std::move(prepared);
    }

    // Inputs and outputs, in the order of info().params.
    void run(const std::vector<Tensor> &params, const Memory &workspace, void *stream = nullptr, std::int64_t sequence_tokens = 0) const {
        const Pointers pointers(params);
        moec_run_args args{};
        args.struct_size = sizeof args;
        args.params = pointers.data();
        args.num_params = pointers.size();
        args.binding = binding_.get();
        args.workspace = workspace.data();
        args.workspace_bytes = workspace.bytes();
        args.stream = stream;
        args.sequence_tokens = sequence_tokens;
        check(api_->run(handle_.get(), &args));
    }

private:
    struct Destroy {
        const moec_api *api;
        void operator()(moec_handle *handle) const { api->destroy(handle); }
    };
    struct Unbind {
        const moec_api *api;
        void operator()(moec_binding *binding) const { api->unbind(binding); }
    };
    class Pointers {
    public:
        explicit Pointers(const std::vector<Tensor> &tensors) {
            for (const Tensor &tensor : tensors) tensors_.push_back(tensor.get());
            for (const moec_tensor &tensor : tensors_) pointers_.push_back(&tensor);
        }
        const moec_tensor *const *data() const { return pointers_.data(); }
        std::uint32_t size() const { return static_cast<std::uint32_t>(pointers_.size()); }

    private:
        std::vector<moec_tensor> tensors_;
        std::vector<const moec_tensor *> pointers_;
    };

    void check(moec_status status) const {
        if (status == MOEC_OK) return;
        std::string text(api_->last_error(nullptr, 0), '\0');
        api_->last_error(text.data(), text.size() + 1);
        throw Error(status, text);
    }

    const moec_api *api_;
    std::unique_ptr<moec_handle, Destroy> handle_;
    std::unique_ptr<Memory> prepared_;
    std::unique_ptr<moec_binding, Unbind> binding_{nullptr, Unbind{nullptr}};
};

}  // namespace moec
