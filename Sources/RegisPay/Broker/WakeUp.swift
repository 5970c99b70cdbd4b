import Glibc

/// Lets a thread wait for a socket and for other threads at once.
///
/// Safe to use from any thread.
final class WakeUp: Sendable {
  /// The system has no descriptor left.
  struct Failure: Error, Sendable, Hashable, CustomStringConvertible {
    var description: String
  }

  /// The two ends of a pipe, which never wait.
  private let reading: Int32
  private let writing: Int32

  init() throws(Failure) {
    var ends: [Int32] = [-1, -1]
    guard pipe(&ends) == 0 else { throw Failure(description: "no pipe: \(String(cString: strerror(errno)))") }
    for end in ends {
      // Neither fails for a descriptor of the process's own.
      _ = fcntl(end, F_SETFD, FD_CLOEXEC)
      _ = fcntl(end, F_SETFL, O_NONBLOCK)
    }
    (reading, writing) = (ends[0], ends[1])
  }

  deinit {
    close(reading)
    close(writing)
  }

  /// Ends the present wait, or the next one.
  func signal() {
    var byte: UInt8 = 1
    // Fails only when the pipe is full, which ends a wait, too.
    _ = write(writing, &byte, 1)
  }

  /// Waits until the socket has something to read, until it takes something if `orWritable`, until ``signal()``, or until a time.
  func wait(for socket: Int32?, orWritable: Bool = false, until end: ContinuousClock.Instant) {
    let events = Int16(POLLIN) | (orWritable ? Int16(POLLOUT) : 0)
    // Poll leaves out a negative descriptor.
    var descriptors = [
      pollfd(fd: reading, events: Int16(POLLIN), revents: 0), pollfd(fd: socket ?? -1, events: events, revents: 0),
    ]
    let left = max(ContinuousClock.now.duration(to: end), .zero)
    // A signal ends the wait early, which does no harm.
    _ = poll(&descriptors, 2, Int32(min(left / .milliseconds(1) + 0.999, 60_000)))
    guard descriptors[0].revents != 0 else { return }
    var bytes: [UInt8] = Array(repeating: 0, count: 64)
    while read(reading, &bytes, bytes.count) == bytes.count {}
  }

  /// Whether the socket takes something now. An error counts: sending finds it.
  static func isWritable(_ socket: Int32) -> Bool {
    var descriptor = pollfd(fd: socket, events: Int16(POLLOUT), revents: 0)
    return poll(&descriptor, 1, 0) != 0
  }
}
