// Memory that a thread keeps between calls.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace paretoserve {

// Grows as needed. `shrink` frees what is too much to be kept.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  void* reserve(int64_t bytes) {
    if (bytes > size_ || !data_) {
      std::free(data_);
      const int64_t size = (bytes / 4096 + 1) * 4096;
      data_ = std::aligned_alloc(64, size);
      size_ = data_ ? size : 0;
    }
    return data_;
  }
  void shrink() {
    if (size_ <= kMostKept) return;
    std::free(data_);
    data_ = nullptr;
    size_ = 0;
  }

 private:
  static constexpr int64_t kMostKept = int64_t{16} << 20;
  void* data_ = nullptr;
  int64_t size_ = 0;
};

// Frees large memory when a call returns.
struct Shrink {
  explicit Shrink(Scratch& kept) : scratch(kept) {}
  ~Shrink() { scratch.shrink(); }
  Scratch& scratch;
};

}  // namespace paretoserve
