// Counts what a program takes from the allocator, for tests that say how often that is. A program that links this has
// its own `malloc` and the like in front of the C library's: the same memory, and one number more.
#ifndef CALLOCATIONCOUNT_H
#define CALLOCATIONCOUNT_H

#include <stdint.h>

/// 0 in a program that was built with a sanitizer, which has an allocator of its own: there nothing is counted.
int callocation_counts(void);

/// Allocations of all threads since the program began; one that is made larger counts again.
uint64_t callocation_count(void);

/// Those of the calling thread.
uint64_t callocation_thread_count(void);

#endif
