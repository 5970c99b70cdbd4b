#pragma once

#include <stdbool.h>

/// Whether a signal is ignored, as `nohup` leaves SIGHUP for the program that it starts.
bool cstart_is_ignored(int number);

/// From now on a signal ends the process at once, with exit code 0: for a program that has nothing to finish yet. Whoever
/// handles the signal later replaces this.
void cstart_end_on(int number);
