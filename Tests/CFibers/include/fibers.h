// Threads of control that take turns on one thread of the operating system, so that a simulation decides who runs, and a
// turn costs some nanoseconds.
#ifndef FIBERS_H
#define FIBERS_H

#include <stddef.h>
#include <stdint.h>

typedef struct fiber fiber;

/// What a fiber does when it is first gone to, and each time after that when it has gone through its last work. Returns
/// the fiber to go to, when the work is done: nothing of it is left on the stack then.
typedef fiber *_Nonnull (*fiber_work)(void *_Nonnull argument);

/// The fiber that the calling thread is in already.
fiber *_Nullable fiber_of_thread(void);

/// A fiber with a stack of its own; NULL if there is no memory.
fiber *_Nullable fiber_make(size_t stack_bytes, fiber_work _Nonnull work, void *_Nonnull argument);

/// Not the one that runs.
void fiber_free(fiber *_Nonnull fiber);

/// Goes from the fiber that runs to another one, and returns when somebody comes back.
void fiber_switch(fiber *_Nonnull from, fiber *_Nonnull to);

/// What is being simulated by one of several threads, told if the process crashes.
void fiber_note_seed(int worker, uint64_t seed);

/// Has the noted seeds printed when the process crashes.
void fiber_report_crashes(void);

#endif
