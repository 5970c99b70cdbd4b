import CLinux
import CMalloc
import Synchronization

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
    // So that the heap grows in steps of that size.
    mallopt(M_TOP_PAD, 1 << 20)
  }

  private static let reserveBytes = 32 << 20

  /// Keeps address space for the time in which the system gives no more: Swift's runtime ends the process when it gets no memory.
  ///
  /// - Returns: 0, or the error for which there is no thread that gives it back.
  public static func keepReserve() -> Int32 { clinux_reserve_keep(reserveBytes) }

  /// What ``Health`` says when the reserve is in use.
  static var warnings: [String] {
    guard clinux_reserve_is_in_use() else { return [] }
    return [
      "the system gives the server no more memory: it goes on with \(reserveBytes >> 20) MiB that it keeps for that, and ends when"
        + " they are used; raise the limit (ulimit -v, ulimit -d), or stop it"
    ]
  }

  private static let isReturning = Atomic<Bool>(false)

  /// Returns freed memory to the system a second from now: glibc by itself returns only what lies at the end of an arena, and long-lived
  /// blocks lie between those of thousands of requests. At most once a second. For some 80 MiB an arena is locked for 3 ms.
  @Sendable
  static func returnFreedSoon() {
    guard !isReturning.exchange(true, ordering: .relaxed) else { return }
    Task.detached {
      // Fails only if the task is cancelled, which nothing does.
      try? await Task.sleep(for: .seconds(1))
      isReturning.store(false, ordering: .relaxed)
      _ = await RequestThreads.run(.long) { malloc_trim(0) }
    }
  }
}
