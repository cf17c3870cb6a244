#pragma once

#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

namespace pyprod::probe {

// Becomes Python's OSError(code, message).
struct CounterError {
  int code;
  std::string message;
};

// Cycles and instructions of the calling thread in user space, as one group so that both count over the same time.
// Every member function throws CounterError.
class Counters {
 public:
  Counters() {
    cycles_ = open(PERF_COUNT_HW_CPU_CYCLES, -1);
    try {
      instructions_ = open(PERF_COUNT_HW_INSTRUCTIONS, cycles_);
    } catch (...) {
      close();
      throw;
    }
  }
  Counters(const Counters&) = delete;
  Counters& operator=(const Counters&) = delete;
  ~Counters() { close(); }

  void start() {
    control(PERF_EVENT_IOC_RESET);
    control(PERF_EVENT_IOC_ENABLE);
  }

  // {cycles, instructions} since start().
  std::pair<uint64_t, uint64_t> stop() {
    control(PERF_EVENT_IOC_DISABLE);
    struct {
      uint64_t count, enabled, running, values[2];
    } group;
    if (read(cycles_, &group, sizeof group) != static_cast<ssize_t>(sizeof group)) fail(errno, "can't read counters");
    // A group that shared the hardware with others holds an extrapolation, not a count.
    if (group.running < group.enabled) fail(EBUSY, "the hardware counters are in use by somebody else");
    return {group.values[0], group.values[1]};
  }

  void close() {
    for (int* fd : {&instructions_, &cycles_}) {
      if (*fd >= 0) ::close(*fd);
      *fd = -1;
    }
  }

 private:
  int cycles_ = -1, instructions_ = -1;

  [[noreturn]] static void fail(int code, const std::string& message) { throw CounterError{code, message}; }

  void control(unsigned long request) {
    if (ioctl(cycles_, request, PERF_IOC_FLAG_GROUP) != 0) fail(errno, "counters are closed");
  }

  static int open(uint64_t event, int group) {
    perf_event_attr attr;
    std::memset(&attr, 0, sizeof attr);
    attr.size = sizeof attr;
    attr.type = PERF_TYPE_HARDWARE;
    attr.config = event;
    attr.disabled = group < 0;
    attr.exclude_kernel = 1;
    attr.exclude_hv = 1;
    attr.read_format = PERF_FORMAT_GROUP | PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING;
    const long fd = syscall(SYS_perf_event_open, &attr, 0, -1, group, PERF_FLAG_FD_CLOEXEC);
    if (fd >= 0) return static_cast<int>(fd);
    const int code = errno;
    if (code == EACCES || code == EPERM)
      fail(code,
           "the kernel forbids hardware counters (set kernel.perf_event_paranoid to 2 or less, or grant CAP_PERFMON)");
    if (code == ENOENT || code == EOPNOTSUPP || code == ENODEV)
      fail(EOPNOTSUPP, "this machine has no hardware counters (usual in a virtual machine without a virtual PMU)");
    fail(code, std::string("can't open hardware counters: ") + std::strerror(code));
  }
};

}  // namespace pyprod::probe
