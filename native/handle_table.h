// Values that JavaScript names by number. A handle is slot + generation * 2^24 as a double, so a freed handle never
// names another value: a slot is used again under the next generation only, and retired after 2^28 of them.
#pragma once

#include <cstdint>
#include <deque>
#include <stdexcept>
#include <utility>
#include <vector>

namespace diffcoder {

template <typename T>
class HandleTable {
 public:
  HandleTable() { slots_.emplace_back(); }  // slot 0 is never given out, so 0 is never a valid handle

  double add(T value) {
    uint32_t slot;
    if (free_.empty()) {
      if (slots_.size() >= static_cast<size_t>(kSlots)) throw std::length_error("2^24 values are alive, no more fit");
      slot = static_cast<uint32_t>(slots_.size());
      slots_.emplace_back();
    } else {
      slot = free_.back();
      free_.pop_back();
    }
    Entry& entry = slots_[slot];
    entry.value = std::move(value);
    entry.live = true;
    ++live_;
    return static_cast<double>(slot) + static_cast<double>(entry.generation) * kSlots;
  }

  // The value, or null when the handle was freed or never given out.
  T* find(double handle) {
    Entry* entry = lookup(handle);
    return entry ? &entry->value : nullptr;
  }

  // The value, which leaves the table; a default one when the handle names none.
  T take(double handle) {
    Entry* entry = lookup(handle);
    T value = entry ? std::move(entry->value) : T();
    if (entry) free(handle);
    return value;
  }

  bool free(double handle) {
    Entry* entry = lookup(handle);
    if (!entry) return false;
    T dropped = std::move(entry->value);  // destroyed last: its destructor may come back to this table
    entry->value = T();
    entry->live = false;
    --live_;
    if (++entry->generation < kGenerations) free_.push_back(slotOf(handle));
    return true;
  }

  size_t live() const { return live_; }

  static uint32_t slotOf(double handle) { return static_cast<uint32_t>(static_cast<uint64_t>(handle) & 0xFFFFFF); }

  template <typename F>
  void forEach(F visit) const {
    for (const Entry& entry : slots_) {
      if (entry.live) visit(entry.value);
    }
  }

 private:
  static constexpr double kSlots = 16777216.0;  // 2^24
  static constexpr uint32_t kGenerations = 1u << 28;
  struct Entry {
    T value{};
    uint32_t generation = 0;
    bool live = false;
  };

  Entry* lookup(double handle) {
    if (!(handle > 0) || handle > 9007199254740991.0) return nullptr;
    const uint64_t bits = static_cast<uint64_t>(handle);
    const uint32_t slot = slotOf(handle);
    if (slot >= slots_.size()) return nullptr;
    Entry& entry = slots_[slot];
    return entry.live && entry.generation == (bits >> 24) ? &entry : nullptr;
  }

  std::deque<Entry> slots_;
  std::vector<uint32_t> free_;
  size_t live_ = 0;
};

}  // namespace diffcoder
