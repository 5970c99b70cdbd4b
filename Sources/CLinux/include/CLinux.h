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

/// Marks an open file as in use until its last descriptor is closed: a shared fcntl(2) lock of the open file description
/// (F_OFD_SETLK), which nobody can refuse who may not write the file.
int clinux_mark_in_use(int descriptor);

/// Whether another open file description has marked a file: 0, or EAGAIN if so.
int clinux_is_in_use(int descriptor);

/// A read lease (F_SETLEASE) on a descriptor that is open for reading alone: EAGAIN if anybody has the file open for writing.
/// While it is held, opening it for writing waits. Whoever does so is no reason for a signal.
int clinux_lease(int descriptor);

/// pthread_setname_np(3) for the calling thread: how tools call it; at most 15 bytes.
int clinux_name_thread(const char *name);

/// From now on a signal that tells of a crash (SIGILL, SIGTRAP, SIGABRT, SIGFPE or SIGSEGV) writes `!` to the first byte
/// of this open file before it does what it did before, and no program that is started afterwards has this process's files or
/// sockets. A signal that was sent (kill, abort) ends the process also where the handler before returns. Called again, it
/// takes another file.
void clinux_mark_crash(int descriptor);

/// Asks the processor for the cache line at an address; touches nothing, so any address will do.
static inline void clinux_prefetch(const void *address) { __builtin_prefetch(address); }

#endif
