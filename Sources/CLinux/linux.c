#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

int clinux_allocate(int descriptor, uint64_t length) {
  return fallocate(descriptor, 0, 0, (off_t)length) == 0 ? 0 : errno;
}

int clinux_memory_file(void) {
  return memfd_create("logstore", MFD_CLOEXEC);
}

int clinux_start_writeback(int descriptor, uint64_t position, uint64_t length) {
  return sync_file_range(descriptor, (off64_t)position, (off64_t)length, SYNC_FILE_RANGE_WRITE) == 0 ? 0 : errno;
}

// cachestat(2): the C library has no function for it, and older headers have no number. The number is the same on x86-64
// and ARM.
#define CACHESTAT 451
struct cachestat_range {
  uint64_t position, length;
};
struct cachestat_counts {
  uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

static uint64_t nanoseconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

int clinux_poll_writeback(int descriptor, uint64_t position, uint64_t length, uint32_t nanoseconds) {
  struct cachestat_range range = {position, length};
  struct cachestat_counts counts;
  uint64_t end = nanoseconds_now() + nanoseconds;
  for (;;) {
    if (syscall(CACHESTAT, descriptor, &range, &counts, 0) != 0) return errno;
    if (counts.writeback == 0) return 0;
    if (nanoseconds_now() >= end) return EAGAIN;
  }
}

int clinux_clock_is_kept(uint64_t *error_microseconds) {
  struct timex state = {.modes = 0};
  int result = adjtimex(&state);
  if (result < 0) return errno;
  *error_microseconds = state.maxerror < 0 ? 0 : (uint64_t)state.maxerror;
  return result == TIME_ERROR || state.status & STA_UNSYNC ? ETIME : 0;
}

int clinux_is_fixed(const char *path) {
  struct statx status;
  if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, 0, &status) != 0) return 0;
  return (status.stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND)) != 0;
}

// Not in the C library's headers of all supported systems.
#define EXCHANGE_FLAG (1u << 1)

int clinux_exchange(const char *first, const char *second) {
  return (int)syscall(SYS_renameat2, AT_FDCWD, first, AT_FDCWD, second, EXCHANGE_FLAG);
}

int clinux_name_thread(const char *name) { return pthread_setname_np(pthread_self(), name); }

static int lock_all(int descriptor, int command, short type, short *found) {
  // The whole file, however far it grows.
  struct flock lock = {.l_type = type, .l_whence = SEEK_SET};
  while (fcntl(descriptor, command, &lock) != 0) {
    if (errno != EINTR) return errno;
  }
  *found = lock.l_type;
  return 0;
}

int clinux_mark_in_use(int descriptor) {
  short found;
  return lock_all(descriptor, F_OFD_SETLK, F_RDLCK, &found);
}

int clinux_is_in_use(int descriptor) {
  short found = F_UNLCK;
  int code = lock_all(descriptor, F_OFD_GETLK, F_WRLCK, &found);
  return code != 0 ? code : found == F_UNLCK ? 0 : EAGAIN;
}

int clinux_lease(int descriptor) {
  // Not SIGIO, which ends a process that does not expect it. SIGURG is ignored by default.
  if (fcntl(descriptor, F_SETSIG, SIGURG) != 0) return errno;
  return fcntl(descriptor, F_SETLEASE, F_RDLCK) != 0 ? errno : 0;
}

// CLOSE_RANGE_CLOEXEC of <linux/close_range.h>, which older systems lack.
#define CLOSE_RANGE_CLOEXEC_FLAG (1u << 2)

static int crash_descriptor = -1;
static struct sigaction handlers_before[NSIG];

// The next handler may start a program that reports the crash (Swift's backtracer), which takes seconds. That program must
// not hold this process's sockets, some of which a library opens without SOCK_CLOEXEC: a process that is killed meanwhile
// would leave its port taken until the report is written.
static void close_on_exec(void) {
#ifdef SYS_close_range
  if (syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC_FLAG) == 0) return;
#endif
  // Before Linux 5.11: the first 1024 descriptors, which include the listening sockets.
  for (int number = 3; number < 1024; number++) fcntl(number, F_SETFD, FD_CLOEXEC);
}

// Uses only what signal-safety(7) allows.
static void note_crash(int number, siginfo_t *information, void *context) {
  // As before: somebody wants this signal to do nothing.
  if (handlers_before[number].sa_handler == SIG_IGN) return;
  int kept = errno;
  if (pwrite(crash_descriptor, "!", 1, 0) < 0) {
    // Then the crash is not counted.
  }
  close_on_exec();
  errno = kept;
  sigaction(number, &handlers_before[number], NULL);
  // The processor's own signals occur again when the instruction is repeated, as often as a handler returns.
  if (information->si_code > 0) return;
  // Other signals are sent again, and arrive at once, with the signal mask of the interrupted code.
  const ucontext_t *interrupted = context;
  pthread_sigmask(SIG_SETMASK, &interrupted->uc_sigmask, NULL);
  raise(number);
  // Swift's handler returns after it has reported the crash, so that the instruction fails again. A sent signal would leave
  // this process alive then, with its port and its locks.
  struct sigaction end = {.sa_handler = SIG_DFL};
  sigaction(number, &end, NULL);
  raise(number);
}

void clinux_mark_crash(int descriptor) {
  // Not SIGBUS: reading a mapped file that was cut is no crash (CFaults.h).
  static const int signals[] = {SIGILL, SIGTRAP, SIGABRT, SIGFPE, SIGSEGV};
  int is_first = crash_descriptor < 0;
  crash_descriptor = descriptor;
  // If it was set twice, the handler would be its own predecessor.
  if (!is_first) return;
  struct sigaction action = {.sa_sigaction = note_crash, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigfillset(&action.sa_mask);
  for (unsigned index = 0; index < sizeof signals / sizeof *signals; index++) {
    sigaction(signals[index], &action, &handlers_before[signals[index]]);
  }
}
