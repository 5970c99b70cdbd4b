#pragma once

#include <stdbool.h>

/// Whether a signal is ignored, as `nohup` leaves SIGHUP for the program that it starts.
bool cstart_is_ignored(int number);
