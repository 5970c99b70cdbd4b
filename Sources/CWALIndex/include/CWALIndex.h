// The index of SQLite's write-ahead log in memory of the process, in the place of a mapped file beside the database.
//
// In WAL mode SQLite maps a file, `…-shm`, that connections share. If the disk can't read a page of it any more, or somebody
// cuts it, whoever touches the page is ended by SIGBUS, and what SQLite would make of zeros in its place is not known. A
// database that only this process opens needs no file for it: its connections share the process's memory. SQLite makes the
// index of the log again whenever the first connection opens the database, so nothing of it has to last.
//
// A program that links this also never waits for the other end of a pipe that stands where a database should be.
#ifndef CWALINDEX_H
#define CWALINDEX_H

/// From now on the index of this database's write-ahead log is in memory. To be called before the first connection to it is
/// opened; for a database that no other process opens meanwhile. All other databases are as they were. May be called from
/// any thread, and more than once for a path. Returns 0, or a result code of SQLite.
int cwal_keep_index_in_memory(const char *path);

#endif
