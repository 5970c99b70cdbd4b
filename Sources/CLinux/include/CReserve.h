// Address space that a program keeps for the time when the system gives it no more. Swift's runtime ends a process that gets no
// memory, wherever it asks for it, so a program that is to end in order needs some that nothing else has used.
//
// glibc can't keep it: `M_TOP_PAD` adds to the heap only when it grows, so anything between all and nothing is left of it when a limit
// is reached, and a thread of the main arena that gets nothing there may try that one again in place of another.
#ifndef CRESERVE_H
#define CRESERVE_H

#include <stdbool.h>
#include <stddef.h>

/// Keeps `byte_count` bytes of address space, and starts the thread that gives them back to the system within 100 ms after the
/// system refuses 2 MiB (`ulimit -v`, `ulimit -d`, overcommit by rule), and takes them again when there is room for both. No
/// page of it is ever touched. Call it once. Returns 0, or the error for which there is no thread.
int clinux_reserve_keep(size_t byte_count);

/// Whether the system gives so little that the reserve is in use. Any thread may ask.
bool clinux_reserve_is_in_use(void);

#endif
