#pragma once

#include <stdbool.h>
#include <stddef.h>

/// Whether a signal is ignored, as `nohup` leaves SIGHUP for the program that it starts.
bool cstart_is_ignored(int number);

/// Makes a signal end the process at once, with exit code 0: for a program that has nothing to finish yet. A handler that is
/// installed later replaces this.
void cstart_end_on(int number);

/// How many of `count` threads the system lets this process have at once, beside those that it has. Starts them, and ends them before
/// it returns.
int cstart_startable_threads(int count);

/// Calls `action` with `context` at the first of these signals, on a thread that is started here. Needs no thread and no memory when
/// the signal comes. Further ones do nothing. May be called once. Returns 0, or the error of the thread's start.
int cstart_on_signals(const int *numbers, int count, void *context, void (*action)(void *context));

/// Writes a line to standard error, unless nobody reads it for a second, and ends the process with exit code 1, without running what
/// is to run at exit. Needs no thread and no memory.
_Noreturn void cstart_fail(const char *line, size_t count);
