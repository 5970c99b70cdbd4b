#include "CAllocationCount.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

// A sanitizer stands in that place already, and knows nothing of memory that it did not hand out.
#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#endif

static atomic_uint_fast64_t all_threads;
// In the program's own part of thread-local storage, which is there before the thread runs: reaching it allocates nothing.
static __thread uint64_t this_thread __attribute__((tls_model("initial-exec")));

uint64_t callocation_count(void) { return atomic_load_explicit(&all_threads, memory_order_relaxed); }

uint64_t callocation_thread_count(void) { return this_thread; }

#ifdef SANITIZED

int callocation_counts(void) { return 0; }

#else

// The C library's own, under the names that it keeps for whoever stands in front of them. `free` needs no counting, so
// it stays the library's.
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

int callocation_counts(void) { return 1; }

static void count(void) {
  atomic_fetch_add_explicit(&all_threads, 1, memory_order_relaxed);
  this_thread++;
}

void *malloc(size_t size) {
  count();
  return __libc_malloc(size);
}

void *calloc(size_t elements, size_t size) {
  count();
  return __libc_calloc(elements, size);
}

void *realloc(void *memory, size_t size) {
  count();
  return __libc_realloc(memory, size);
}

void *memalign(size_t alignment, size_t size) {
  count();
  return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
  count();
  return __libc_memalign(alignment, size);
}

int posix_memalign(void **result, size_t alignment, size_t size) {
  if (alignment < sizeof(void *) || (alignment & (alignment - 1)) != 0) {
    return EINVAL;
  }
  count();
  void *memory = __libc_memalign(alignment, size);
  if (!memory) {
    return ENOMEM;
  }
  *result = memory;
  return 0;
}

#endif
