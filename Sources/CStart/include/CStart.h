#pragma once

#include <stdbool.h>

/// Whether a signal is ignored, as `nohup` leaves SIGHUP for the program that it starts.
bool cstart_is_ignored(int number);

/// Makes a signal end the process at once, with exit code 0: for a program that has nothing to finish yet. A handler that is
/// installed later replaces this.
void cstart_end_on(int number);

/// How many of `count` threads the system lets this process have at once, beside those that it has. Starts them, and ends them before
/// it returns.
int cstart_startable_threads(int count);
