// The module _cuda: pybind11 and nothing else. It needs no driver to be imported.
#include <algorithm>

#include "bindings/arrays.h"
#include "cuda/operations.h"

using namespace salience;
using namespace salience::bindings;

#if !defined(SALIENCE_CUDA_MODULE)
#define SALIENCE_CUDA_MODULE _cuda
#endif

void bind_device_als(py::module_& module);        // als_module.cpp
void bind_device_attention(py::module_& module);  // attention_module.cpp

#if defined(SALIENCE_CUDA_ON_CPU)
void bind_emulator(py::module_& module);  // tests/cuda_on_cpu/bindings.cpp
#endif

namespace {

// A matrix that Python holds, on the device or in host memory.
struct View {
  uintptr_t address;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;  // elements
  std::string type;
  bool on_device;

  int64_t element_size() const {
    return type == "float64" || type == "int64" ? 8 : type == "float32" ? 4 : type == "bool" ? 1 : 2;
  }
  int64_t bytes() const { return rows * columns * element_size(); }
};

ElementType element_type(const std::string& name) {
  if (name == "float32") return ElementType::float32;
  return name == "float16" ? ElementType::float16 : ElementType::bfloat16;
}

Elements elements_of(const View& view) {
  return {reinterpret_cast<const void*>(view.address), element_type(view.type), view.rows, view.columns,
          view.row_stride};
}

// Input on the device: where it is, or a copy.
template <class T>
class Input {
 public:
  Input(const View& view, cuda::Stream stream)
      : view_{reinterpret_cast<const T*>(view.address), view.rows, view.columns, view.row_stride} {
    if (view.on_device) return;
    copy_ = {view.rows * view.columns, stream, "the input"};
    const auto* from = reinterpret_cast<const T*>(view.address);
    if (view.row_stride == view.columns || view.rows <= 1) {
      cuda::copy(copy_.data(), from, copy_.bytes(), stream);
    } else {
      for (int64_t r = 0; r < view.rows; ++r)
        cuda::copy(copy_.data() + r * view.columns, from + r * view.row_stride,
                   view.columns * static_cast<int64_t>(sizeof(T)), stream);
    }
    view_ = {copy_.data(), view.rows, view.columns, view.columns};
  }
  Matrix<const T> get() const { return view_; }

 private:
  Matrix<const T> view_;
  cuda::Array<T> copy_;
};

// Output on the device: where Python wants it, or memory that finish() copies to the host.
template <class T>
class Output {
 public:
  Output(const View& view, cuda::Stream stream)
      : held_(view),
        stream_(stream),
        view_{reinterpret_cast<T*>(view.address), view.rows, view.columns, view.row_stride} {
    if (view.on_device) return;
    copy_ = {view.rows * view.columns, stream, "the output"};
    view_.data = copy_.data();
  }
  Matrix<T> get() const { return view_; }
  void finish() {
    if (held_.on_device) return;
    cuda::copy(reinterpret_cast<void*>(held_.address), copy_.data(), copy_.bytes(), stream_);
    cuda::synchronize(stream_);
  }

 private:
  View held_;
  cuda::Stream stream_;
  Matrix<T> view_;
  cuda::Array<T> copy_;
};

cuda::Stream stream_of(std::optional<uintptr_t> stream) {
  return stream ? reinterpret_cast<cuda::Stream>(*stream) : cuda::default_stream();
}

const void* on_device(const View& view) {
  return view.on_device ? reinterpret_cast<const void*>(view.address) : nullptr;
}

void similarity(const View& a, const View& b, const std::string& metric, const View& out,
                std::optional<uintptr_t> stream) {
  const Metric kind = metric_of(metric);
  run(1, [&](const Context&) {
    const cuda::DeviceScope scope(on_device(a));
    const cuda::Stream order = stream_of(stream);
    const Input<float> left(a, order), right(b, order);
    Output<float> scores(out, order);
    const Status status = cuda::similarity({left.get(), right.get(), kind, scores.get()}, order);
    if (status.ok()) scores.finish();
    return status;
  });
}

template <class T>
Status select_as(const View& scores, int64_t k, const View& ids, const View& values, cuda::Stream stream) {
  const Input<T> input(scores, stream);
  Output<int64_t> found(ids, stream);
  Output<T> best(values, stream);
  const Status status = cuda::select(SelectArguments<T>{input.get(), k, found.get(), best.get()}, stream);
  if (!status.ok()) return status;
  found.finish();
  best.finish();
  return status;
}

void select_rows(const View& scores, int64_t k, const View& ids, const View& values,
                 std::optional<uintptr_t> stream) {
  run(1, [&](const Context&) {
    const cuda::DeviceScope scope(on_device(scores));
    const cuda::Stream order = stream_of(stream);
    return scores.type == "float64" ? select_as<double>(scores, k, ids, values, order)
                                    : select_as<float>(scores, k, ids, values, order);
  });
}

// What a search is asked, beside its items.
struct Request {
  View queries;
  int64_t k;
  std::optional<Pattern> exclude;
  std::optional<View> allowed;
  View ids, scores;
  std::optional<uintptr_t> stream;
  std::string path;
  std::optional<Additions> additions;
  std::optional<Gates> gates;
  std::optional<Labels> labels;
  py::dict tuning;
};

cuda::Tuning tuning_of(const py::dict& wanted) {
  cuda::Tuning tuning;
  for (const auto& [name, value] : wanted) {
    const auto key = py::cast<std::string>(name);
    const auto number = py::cast<int64_t>(value);
    if (key == "capacity") {
      tuning.capacity = number;
    } else if (key == "sample_tiles") {
      tuning.sample_tiles = number;
    } else if (key == "block_rows") {
      tuning.block_rows = number;
    } else {
      throw py::value_error("tuning: '" + key + "'; expected capacity, sample_tiles or block_rows");
    }
  }
  return tuning;
}

// Runs search(arguments, context) without the GIL, from views to views.
template <class Search>
py::dict search_with(const Request& request, int64_t items, Metric metric, const View* item_view,
                     const void* device, Search search) {
  TopKArguments arguments;
  arguments.k = request.k;
  arguments.metric = metric;
  arguments.exclude = pattern(request.exclude, items);
  arguments.path = path_of(request.path);
  arguments.blend = blend_of(request.additions, request.gates, request.labels, items);
  if (item_view != nullptr) arguments.items = elements_of(*item_view);
  cuda::SearchReport report;
  cuda::SearchContext context;
  context.interrupted = interrupted;
  context.tuning = tuning_of(request.tuning);
  context.report = &report;
  context.items_on_host = item_view != nullptr && !item_view->on_device;
  if (request.allowed) {
    arguments.allowed = reinterpret_cast<const uint8_t*>(request.allowed->address);
    context.allowed_on_host = !request.allowed->on_device;
  }
  run(1, [&](const Context&) {
    const cuda::DeviceScope scope(device);
    context.stream = stream_of(request.stream);
    const Input<float> queries(request.queries, context.stream);
    Output<int64_t> ids(request.ids, context.stream);
    Output<float> scores(request.scores, context.stream);
    arguments.queries = queries.get();
    arguments.ids = ids.get();
    arguments.scores = scores.get();
    const Status status = search(arguments, context);
    if (!status.ok()) return status;
    ids.finish();
    scores.finish();
    return status;
  });
  py::dict found;
  found["blocks"] = report.blocks;
  found["exhaustive"] = report.exhaustive;
  found["second_turns"] = report.second_turns;
  found["survivors"] = report.survivors;
  return found;
}

py::dict topk(const View& queries, const View& items, int64_t k, const std::string& metric,
              const std::optional<Pattern>& exclude, const std::optional<View>& allowed, const View& ids,
              const View& scores, std::optional<uintptr_t> stream, const std::string& path,
              const std::optional<Additions>& additions, const std::optional<Gates>& gates,
              const std::optional<Labels>& labels, const py::dict& tuning) {
  check_k(k, items.rows);
  const Request request{queries, k,    exclude,   allowed, ids,    scores,
                        stream,  path, additions, gates,   labels, tuning};
  const void* const device = queries.on_device ? on_device(queries) : on_device(items);
  return search_with(request, items.rows, metric_of(metric), &items, device,
                     [](const TopKArguments& arguments, const cuda::SearchContext& context) {
                       return cuda::topk(arguments, context);
                     });
}

py::tuple probe(const Floats& queries, const Floats& items, const std::string& metric,
                const std::string& path) {
  const auto q = matrix("queries", queries), x = matrix("items", items);
  py::array_t<double> values({q.rows, x.rows}), errors({q.rows, x.rows}), norms(q.rows), centre(q.columns);
  const SimilarityArguments arguments{q, x, metric_of(metric), {}};
  const cuda::ProbeResult out{values.mutable_data(), errors.mutable_data(), norms.mutable_data(),
                              centre.mutable_data()};
  const Path way = path_of(path);
  run(1, [&](const Context&) {
    const cuda::DeviceScope scope(nullptr);
    return cuda::probe(arguments, way, out, cuda::default_stream());
  });
  return py::make_tuple(values, errors, norms, centre);
}

// An index and the device it lives on.
struct DeviceIndex {
  cuda::Index index;
  int device = 0;
};

using Rows = py::array_t<int64_t, py::array::c_style>;

DeviceIndex build(const View& items, const std::optional<Mask>& present, const std::string& metric,
                  std::optional<uintptr_t> stream) {
  DeviceIndex out;
  const Metric kind = metric_of(metric);
  const uint8_t* const flags = mask(present, items.rows);
  run(1, [&](const Context&) {
    const cuda::DeviceScope scope(on_device(items));
    out.device = cuda::describe_device().number;
    return cuda::Index::build(elements_of(items), flags, kind, stream_of(stream), out.index);
  });
  return out;
}

// A changed index; change(index, stream, out) makes it.
template <class Change>
DeviceIndex changed(const DeviceIndex& from, std::optional<uintptr_t> stream, Change change) {
  DeviceIndex out;
  out.device = from.device;
  run(1, [&](const Context&) {
    const cuda::DeviceScope scope(from.index.device_rows());
    return change(from.index, stream_of(stream), out.index);
  });
  return out;
}

DeviceIndex add(const DeviceIndex& from, const View& vectors, std::optional<uintptr_t> stream) {
  return changed(from, stream, [&](const cuda::Index& index, cuda::Stream order, cuda::Index& out) {
    return index.add(elements_of(vectors), order, out);
  });
}

DeviceIndex update(const DeviceIndex& from, const Rows& rows, const View& vectors,
                   std::optional<uintptr_t> stream) {
  return changed(from, stream, [&](const cuda::Index& index, cuda::Stream order, cuda::Index& out) {
    return index.update(rows.data(), rows.size(), elements_of(vectors), order, out);
  });
}

DeviceIndex remove_rows(const DeviceIndex& from, const Rows& rows) {
  return changed(from, {}, [&](const cuda::Index& index, cuda::Stream order, cuda::Index& out) {
    return index.remove(rows.data(), rows.size(), order, out);
  });
}

py::dict search(const DeviceIndex& from, const View& queries, int64_t k,
                const std::optional<Pattern>& exclude, const std::optional<View>& allowed, const View& ids,
                const View& scores, std::optional<uintptr_t> stream, const std::string& path,
                const std::optional<Additions>& additions, const std::optional<Gates>& gates,
                const std::optional<Labels>& labels, const py::dict& tuning) {
  check_k(k, from.index.present());
  const Request request{queries, k,    exclude,   allowed, ids,    scores,
                        stream,  path, additions, gates,   labels, tuning};
  return search_with(request, from.index.rows(), from.index.metric(), nullptr, from.index.device_rows(),
                     [&](const TopKArguments& arguments, const cuda::SearchContext& context) {
                       return from.index.search(arguments, context);
                     });
}

const char* type_name(ElementType type) {
  if (type == ElementType::float32) return "float32";
  return type == ElementType::float16 ? "float16" : "bfloat16";
}

// The rows as NumPy holds them: float32, or 16-bit patterns.
py::array download(const DeviceIndex& from) {
  const cuda::Index& index = from.index;
  py::array out(index.type() == ElementType::float32 ? py::dtype::of<float>() : py::dtype::of<uint16_t>(),
                std::vector<py::ssize_t>{index.rows(), index.columns()});
  void* const to = out.mutable_data();
  run(1, [&](const Context&) {
    const cuda::DeviceScope scope(index.device_rows());
    index.download(to, cuda::default_stream());
    return Status{};
  });
  return out;
}

std::optional<py::array_t<uint8_t>> present_flags(const DeviceIndex& from) {
  if (from.index.present_flags() == nullptr) return {};
  return py::array_t<uint8_t>(from.index.rows(), from.index.present_flags());
}

// Memory on the device for callers whose library we do not know: speaks __cuda_array_interface__.
class DeviceArray {
 public:
  DeviceArray(int64_t rows, int64_t columns, std::string typestr, std::optional<uintptr_t> stream)
      : rows_(rows), columns_(columns), typestr_(std::move(typestr)) {
    size_ = typestr_.at(2) - '0';
    // In the numbers of the interface, where 0 is none: 1 is the legacy default stream, 2 the thread's own.
    order_ = stream ? std::max<uintptr_t>(*stream, 1) : 2;
    memory_ = {rows * columns * size_, stream_of(stream), "the output"};
    memory_.outlive_stream();
  }
  uintptr_t address() const { return reinterpret_cast<uintptr_t>(memory_.data()); }
  py::dict interface() const {
    py::dict found;
    found["shape"] = py::make_tuple(rows_, columns_);
    found["typestr"] = typestr_;
    found["data"] = py::make_tuple(address(), false);
    found["version"] = 3;
    found["stream"] = order_;
    return found;
  }
  void assign(const py::array& from) const {
    if (from.nbytes() != memory_.bytes() || !(from.flags() & py::array::c_style))
      throw py::value_error("from: " + std::to_string(from.nbytes()) + " bytes; expected " +
                            std::to_string(memory_.bytes()) + ", side by side");
    cuda::copy(memory_.data(), from.data(), memory_.bytes(), cuda::default_stream());
    cuda::synchronize(cuda::default_stream());
  }
  py::array numpy() const {
    py::array out(py::dtype(typestr_), std::vector<py::ssize_t>{rows_, columns_});
    cuda::synchronize(reinterpret_cast<cuda::Stream>(order_));
    cuda::copy(out.mutable_data(), memory_.data(), memory_.bytes(), cuda::default_stream());
    cuda::synchronize(cuda::default_stream());
    return out;
  }

 private:
  int64_t rows_, columns_, size_;
  uintptr_t order_;
  std::string typestr_;
  cuda::Array<unsigned char> memory_;
};

py::dict device() {
  const cuda::DeviceScope scope(nullptr);
  const cuda::DeviceDescription found = cuda::describe_device();
  py::dict row;
  row["name"] = found.name;
  row["compute_capability"] = py::make_tuple(found.major, found.minor);
  row["multiprocessors"] = found.limits.multiprocessors;
  row["total_bytes"] = found.total_bytes;
  row["free_bytes"] = found.free_bytes;
  row["driver"] = found.driver;
  row["runtime"] = found.runtime;
  return row;
}

}  // namespace

PYBIND11_MODULE(SALIENCE_CUDA_MODULE, module) {
  py::register_exception_translator([](std::exception_ptr raised) {
    try {
      if (raised) std::rethrow_exception(raised);
    } catch (const cuda::OutOfDeviceMemory& error) {
      PyErr_SetString(PyExc_MemoryError, error.what());
    }
  });
  py::class_<View>(module, "View")
      .def(py::init<uintptr_t, int64_t, int64_t, int64_t, std::string, bool>(), py::arg("address"),
           py::arg("rows"), py::arg("columns"), py::arg("row_stride"), py::arg("type"), py::arg("on_device"));
  py::class_<DeviceArray>(module, "DeviceArray")
      .def(py::init<int64_t, int64_t, std::string, std::optional<uintptr_t>>(), py::arg("rows"),
           py::arg("columns"), py::arg("typestr"), py::arg("stream"))
      .def("assign", &DeviceArray::assign, py::arg("source"))
      .def("numpy", &DeviceArray::numpy)
      .def_property_readonly("__cuda_array_interface__", &DeviceArray::interface);
  py::class_<DeviceIndex>(module, "Index")
      .def_static("build", build, py::arg("items"), py::arg("present"), py::arg("metric"), py::arg("stream"))
      .def("add", add, py::arg("vectors"), py::arg("stream"))
      .def("update", update, py::arg("rows"), py::arg("vectors"), py::arg("stream"))
      .def("remove", remove_rows, py::arg("rows"))
      .def("search", search, py::arg("queries"), py::arg("k"), py::arg("exclude"), py::arg("allowed"),
           py::arg("ids"), py::arg("scores"), py::arg("stream"), py::arg("path") = "auto",
           py::arg("additions") = py::none(), py::arg("gates") = py::none(), py::arg("labels") = py::none(),
           py::arg("tuning") = py::dict())
      .def("download", download)
      .def("present_flags", present_flags)
      .def_property_readonly("rows", [](const DeviceIndex& i) { return i.index.rows(); })
      .def_property_readonly("present", [](const DeviceIndex& i) { return i.index.present(); })
      .def_property_readonly("columns", [](const DeviceIndex& i) { return i.index.columns(); })
      .def_property_readonly("type", [](const DeviceIndex& i) { return type_name(i.index.type()); })
      .def_property_readonly("bytes", [](const DeviceIndex& i) { return i.index.bytes(); })
      .def_property_readonly("device", [](const DeviceIndex& i) { return i.device; });
  module.def("unavailable", cuda::unavailable);
  module.def("device", device);
  module.def("similarity", similarity, py::arg("a"), py::arg("b"), py::arg("metric"), py::arg("out"),
             py::arg("stream"));
  module.def("select", select_rows, py::arg("scores"), py::arg("k"), py::arg("ids"), py::arg("values"),
             py::arg("stream"));
  module.def("topk", topk, py::arg("queries"), py::arg("items"), py::arg("k"), py::arg("metric"),
             py::arg("exclude"), py::arg("allowed"), py::arg("ids"), py::arg("scores"), py::arg("stream"),
             py::arg("path") = "auto", py::arg("additions") = py::none(), py::arg("gates") = py::none(),
             py::arg("labels") = py::none(), py::arg("tuning") = py::dict());
  module.def("probe_screening", probe, py::arg("queries").noconvert(), py::arg("items").noconvert(),
             py::arg("metric"), py::arg("path"));
  bind_device_als(module);
  bind_device_attention(module);
#if defined(SALIENCE_CUDA_ON_CPU)
  bind_emulator(module);
#endif
}
