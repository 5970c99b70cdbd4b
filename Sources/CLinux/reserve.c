#define _GNU_SOURCE
#include "CReserve.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>

// glibc asks for at least 1 MiB at once, and what `M_TOP_PAD` adds.
static const size_t probe_bytes = 2 << 20;

static size_t reserve_bytes;
static void *reserve;
static atomic_bool is_in_use;

// Writable, so that it counts for every limit.
static void *map(size_t byte_count) {
  void *start = mmap(NULL, byte_count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return start == MAP_FAILED ? NULL : start;
}

static void look(void) {
  // What is given back first is at the end of the mapping, which then begins where it began.
  char *start = map(reserve ? probe_bytes : reserve_bytes + probe_bytes);
  if (start && !reserve) {
    reserve = start;
    start += reserve_bytes;
  }
  // Fails only when it would split a mapping and the process has too many: not these.
  if (start) (void)munmap(start, probe_bytes);
  if (!start && reserve) {
    (void)munmap(reserve, reserve_bytes);
    reserve = NULL;
  }
  atomic_store(&is_in_use, !reserve);
}

static void *keep_looking(void *unused) {
  (void)unused;
  const struct timespec pause = {.tv_nsec = 100000000};
  while (true) {
    // A signal ends it early, which does no harm.
    (void)nanosleep(&pause, NULL);
    look();
  }
  return NULL;
}

int clinux_reserve_keep(size_t byte_count) {
  reserve_bytes = byte_count;
  look();
  pthread_attr_t attributes;
  int code = pthread_attr_init(&attributes);
  if (code != 0) return code;
  (void)pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN + (16 << 10));
  (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  // No signal is blocked there: a crash's report stops all threads by one, and waits for them.
  pthread_t thread;
  code = pthread_create(&thread, &attributes, keep_looking, NULL);
  pthread_attr_destroy(&attributes);
  if (code == 0) (void)pthread_setname_np(thread, "memory reserve");
  return code;
}

bool clinux_reserve_is_in_use(void) { return atomic_load(&is_in_use); }
