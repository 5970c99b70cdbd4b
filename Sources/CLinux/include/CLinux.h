// What Swift's own view of the machine leaves out: some system calls of Linux, each of which returns 0 or an errno value,
// and a hint to the processor.
#ifndef CLINUX_H
#define CLINUX_H

#include <stdint.h>

#include "CFaults.h"

/// fallocate(2): reserves space for the first `length` bytes of a file and makes it at least that long.
int clinux_allocate(int descriptor, uint64_t length);

/// sync_file_range(2) with SYNC_FILE_RANGE_WRITE: asks the kernel to begin writing a range of a file to disk.
int clinux_start_writeback(int descriptor, uint64_t position, uint64_t length);

/// Looks, without ever sleeping, until nothing of a range of a file is under way to disk any more, for at most so many
/// nanoseconds. EAGAIN: the time was over; ENOSYS: the kernel can't tell, as before Linux 6.5 (cachestat(2)).
int clinux_poll_writeback(int descriptor, uint64_t position, uint64_t length, uint32_t nanoseconds);

/// pthread_setname_np(3) for the calling thread: how tools call it; at most 15 bytes.
int clinux_name_thread(const char *name);

/// Asks the processor for the cache line at an address; touches nothing, so any address will do.
static inline void clinux_prefetch(const void *address) { __builtin_prefetch(address); }

#endif
