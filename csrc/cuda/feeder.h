// Blocks of host data on their way through the device: while one is worked on, the next comes over a stream
// of its own. The page-locked copies and the device's are two of each.
#pragma once

#include <algorithm>

#include "cuda/runtime.h"

namespace salience::cuda {

class Feeder {
 public:
  // For blocks of at most `bytes`.
  Feeder(int64_t bytes, Stream stream, const char* what) : stream_(stream) {
    for (int n = 0; n < 2; ++n) {
      device_[n] = {bytes, stream, what};
      pinned_[n] = Pinned(std::max<int64_t>(bytes, 1));
    }
    synchronize(stream);  // the side stream may write to what `stream` has allocated
  }

  // Whatever happened, no copy is under way when its memory goes.
  ~Feeder() { side_.finish(); }
  Feeder(const Feeder&) = delete;
  Feeder& operator=(const Feeder&) = delete;

  // Sends the next block: fill(page-locked memory) writes it and returns its bytes.
  template <class Fill>
  void send(Fill fill) {
    const int slot = static_cast<int>(sent_ % 2);
    if (sent_ >= 2) {
      arrived_[slot].wait();  // the page-locked copy is free again
      used_[slot].hold(side_.get());
    }
    const int64_t bytes = fill(static_cast<unsigned char*>(pinned_[slot].data()));
    copy(device_[slot].data(), pinned_[slot].data(), bytes, side_.get());
    arrived_[slot].record(side_.get());
    ++sent_;
  }

  // The oldest block that is not done yet: later work of the stream finds it there.
  const unsigned char* receive() const {
    arrived_[done_ % 2].hold(stream_);
    return device_[done_ % 2].data();
  }
  void done() { used_[done_++ % 2].record(stream_); }

 private:
  Stream stream_;
  int64_t sent_ = 0, done_ = 0;
  SideStream side_;
  Array<unsigned char> device_[2];
  Pinned pinned_[2];
  Event arrived_[2], used_[2];
};

}  // namespace salience::cuda
