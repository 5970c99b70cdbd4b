// Bytes of a mapped file that the disk can't read. When a thread touches such a page, the kernel sends SIGBUS, which ends
// the process by default. The handler here knows the mappings of this library: it records which page could not be read,
// replaces the page by zeros, and lets the thread go on. A reader of a mapping checks its faults before it takes what it
// read for the file's bytes.
//
// For a SIGBUS anywhere else the handler calls the handler that was there before, or the default. The handler is installed
// once, with the first mapping. A program that later sets a handler of its own for SIGBUS has to call the one before for
// addresses that it doesn't know; otherwise an unreadable page ends the program again.
//
// Every function may be called from any thread. The handler calls only mmap(2), sigaction(2) and pthread_sigmask(3).
#ifndef CFAULTS_H
#define CFAULTS_H

#include <stddef.h>
#include <stdint.h>

/// The number of unreadable pages of a mapping that are recorded one by one. With one more, all of the mapping counts as
/// unreadable.
#define CLINUX_PAGES_LISTED 32

/// The record of one mapping. Lives until `clinux_region_remove`. Only the functions here touch its fields.
typedef struct clinux_region {
  // Odd while the two fields below change.
  uint64_t sequence;
  uintptr_t start;
  uint64_t byte_count;
  // The number of touches of pages that could not be read, since the mapping was made.
  uint64_t faults;
  // The number of the fault after which all of the mapping became zeros; 0: none.
  uint64_t all;
  // The greatest number of a fault whose page is not listed any more.
  uint64_t forgotten;
  // Page number + 1, the number of its last fault, and whether it was read again since; 0: free.
  uint64_t pages[CLINUX_PAGES_LISTED];
} clinux_region;

/// The number of pages that could not be read, in all mappings, since the process started.
extern uint64_t clinux_faults;

/// Registers a mapping. The first call installs the handler. Returns null if there is no memory.
clinux_region *clinux_region_add(const void *start, uint64_t byte_count);

/// Unregisters a mapping. Call it before the mapping is unmapped.
void clinux_region_remove(clinux_region *region);

/// The number of faults in all mappings of the process. Each is counted before its page becomes zeros, and once more
/// afterwards. If the number is unchanged, every byte read before the call was the file's.
static inline uint64_t clinux_fault_count(void) {
  // Orders the reads before the load of the number: a page of zeros appears only after the number has grown.
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return __atomic_load_n(&clinux_faults, __ATOMIC_RELAXED);
}

/// As `clinux_fault_count`, of one mapping.
static inline uint64_t clinux_region_fault_count(const clinux_region *region) {
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return __atomic_load_n(&region->faults, __ATOMIC_RELAXED);
}

/// Whether a page of a range of bytes could not be read after the fault with number `since`, or may not have been readable.
int clinux_region_was_touched(const clinux_region *region, uint64_t since, uint64_t first, uint64_t end);

/// Whether a page of a range of bytes is a page of zeros now. Then `position` is the start of the first such page, or
/// `first` if that is greater.
int clinux_region_is_unreadable(const clinux_region *region, uint64_t first, uint64_t end, uint64_t *position);

/// Maps the file again where its pages can be read again. The descriptor must be of the mapped file. Returns how many
/// pages still can't be read.
unsigned clinux_region_heal(clinux_region *region, int descriptor);

/// Does what the handler does for a page, except for the page of zeros: for a mapping that is really memory, whose owner
/// has written zeros there.
void clinux_region_note(clinux_region *region, uint64_t position);

#endif
