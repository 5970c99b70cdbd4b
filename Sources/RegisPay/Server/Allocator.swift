import CMalloc

/// Settings of the process's allocator. A program that runs a ``Server`` sets them at its start, before it has threads.
public enum Allocator {
  /// Keeps memory from growing over time. glibc gives each thread its own arena and keeps freed blocks of up to 32 MiB in it. The
  /// index tables of a segment are freed by another thread than the one that allocated them, and leave gaps in all arenas. See
  /// docs/PERFORMANCE.md, *Memory*.
  public static func keepMemoryFlat() {
    mallopt(M_ARENA_MAX, 2)
    // Setting one also keeps the other from adapting. Larger blocks return to the system when they are freed.
    mallopt(M_MMAP_THRESHOLD, 256 << 10)
    mallopt(M_TRIM_THRESHOLD, 1 << 20)
  }
}
