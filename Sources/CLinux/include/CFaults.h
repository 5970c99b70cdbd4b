// Bytes of a mapped file that the disk can't read. The kernel answers a touch of such a page with SIGBUS, whose default is
// the end of the process. Here is a handler that knows the mappings of this library: it notes which page could not be read,
// puts a page of zeros in its place, and lets the thread go on. Whoever reads a mapping looks at its faults before it takes
// what it read for the file's bytes.
//
// A SIGBUS anywhere else goes on to the handler that was there before, or to the default, as if this one were not there.
// The handler is installed once, with the first mapping. A program that sets a handler of its own for SIGBUS later has to
// call the one before for addresses that it doesn't know, or an unreadable page ends it again.
//
// Every function may be called from any thread. The handler calls nothing but mmap(2), sigaction(2) and pthread_sigmask(3).
#ifndef CFAULTS_H
#define CFAULTS_H

#include <stddef.h>
#include <stdint.h>

/// So many pages of a mapping are known one by one. When one more can't be read, all of the mapping counts as unreadable.
#define CLINUX_PAGES_LISTED 32

/// What is known of one mapping. Lives until `clinux_region_remove`; nobody but the functions here touches its fields.
typedef struct clinux_region {
  // Odd while the two below change.
  uint64_t sequence;
  uintptr_t start;
  uint64_t byte_count;
  // Pages that could not be read when they were touched, since the mapping was made.
  uint64_t faults;
  // The number of the fault after which all of the mapping became zeros; 0: it has not.
  uint64_t all;
  // The greatest number of a fault whose page is not listed any more.
  uint64_t forgotten;
  // Page number + 1, the number of its last fault, and whether it was read again since; 0: free.
  uint64_t pages[CLINUX_PAGES_LISTED];
} clinux_region;

/// Pages that could not be read, in all mappings of the process, ever.
extern uint64_t clinux_faults;

/// Makes a mapping known, and installs the handler if it isn't yet. Null if there is no memory for it.
clinux_region *clinux_region_add(const void *start, uint64_t byte_count);

/// Forgets a mapping; before it is unmapped.
void clinux_region_remove(clinux_region *region);

/// How many faults there were, in all mappings of the process, each counted before its page becomes zeros and once more when it
/// has. Every byte that was read before the call is the file's if the number is the same as before it was read.
static inline uint64_t clinux_fault_count(void) {
  // What was read comes before the number: a page of zeros is there only after the number has grown.
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return __atomic_load_n(&clinux_faults, __ATOMIC_RELAXED);
}

/// As `clinux_fault_count`, of one mapping.
static inline uint64_t clinux_region_fault_count(const clinux_region *region) {
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return __atomic_load_n(&region->faults, __ATOMIC_RELAXED);
}

/// Whether a page of a range of bytes could not be read after the fault with number `since`, or may not have been.
int clinux_region_was_touched(const clinux_region *region, uint64_t since, uint64_t first, uint64_t end);

/// Whether a page of a range of bytes is a page of zeros now: then `position` is where the first such page begins, or
/// `first` if that is behind it.
int clinux_region_is_unreadable(const clinux_region *region, uint64_t first, uint64_t end, uint64_t *position);

/// Maps the file again where its pages can be read again. The descriptor must be of the mapped file. Returns how many
/// pages still can't be read.
unsigned clinux_region_heal(clinux_region *region, int descriptor);

/// What the handler does for a page of a mapping, but for the page of zeros: for a mapping that is memory in truth, whose
/// owner has put zeros there.
void clinux_region_note(clinux_region *region, uint64_t position);

#endif
