import CMalloc

/// The process's allocator, which a program that runs a ``Server`` sets at its start, before it has threads.
public enum Allocator {
  /// Keeps memory from growing with time. glibc gives each thread an arena of its own, and keeps in them what is freed, also
  /// blocks of up to 32 MiB; a segment's index tables, freed by another thread than made them, leave gaps in all of them.
  /// See docs/PERFORMANCE.md, *Memory*.
  public static func keepMemoryFlat() {
    mallopt(M_ARENA_MAX, 2)
    // Setting one keeps the other from adapting, too. Larger blocks go back to the system when they are freed.
    mallopt(M_MMAP_THRESHOLD, 256 << 10)
    mallopt(M_TRIM_THRESHOLD, 1 << 20)
  }
}
