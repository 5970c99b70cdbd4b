import Glibc

/// inotify on one file, and a pipe that interrupts the wait.
final class RealWatch: FileWatch {
  private let notifications: Descriptor
  private let interruption: Descriptor
  private let interrupter: Descriptor

  init(_ path: String) throws(LogStoreError) {
    var ends: [Int32] = [-1, -1]
    if pipe(&ends) != 0 { throw failure("make a pipe for", path, errno) }
    interruption = Descriptor(adopting: ends[0])
    interrupter = Descriptor(adopting: ends[1])
    for end in ends {
      _ = fcntl(end, F_SETFD, FD_CLOEXEC)
      _ = fcntl(end, F_SETFL, O_NONBLOCK)
    }
    let notifications = inotify_init1(O_CLOEXEC | O_NONBLOCK)
    if notifications < 0 { throw failure("watch (see fs.inotify.max_user_instances)", path, errno) }
    self.notifications = Descriptor(adopting: notifications)
    if inotify_add_watch(notifications, path, UInt32(IN_MODIFY)) < 0 { throw failure("watch", path, errno) }
  }

  func wait(timeoutMilliseconds: Int32) -> Bool {
    var sources = (
      pollfd(fd: notifications.number, events: Int16(POLLIN), revents: 0),
      pollfd(fd: interruption.number, events: Int16(POLLIN), revents: 0)
    )
    return withUnsafeMutableBytes(of: &sources) { bytes in
      let sources = bytes.bindMemory(to: pollfd.self)
      switch poll(sources.baseAddress, 2, timeoutMilliseconds) {
      case 0: return false
      case ..<0: return errno == EINTR || rest()
      default: break
      }
      var wasRead = false
      withUnsafeTemporaryAllocation(byteCount: 1024, alignment: 8) { buffer in
        for source in sources where source.revents != 0 {
          if read(source.fd, buffer.baseAddress, buffer.count) > 0 { wasRead = true }
        }
      }
      // A source that is ready and can't be read stays ready for ever.
      return wasRead || rest()
    }
  }

  /// Sleeps where the kernel does not wait: the caller then checks by itself, as often as without a watch, and does not
  /// spin. Returns false.
  private func rest() -> Bool {
    usleep(Self.restMicroseconds)
    return false
  }

  private static let restMicroseconds: UInt32 = 2000

  func interrupt() {
    // This can fail only if the pipe is full of interruptions; then one is waiting.
    _ = Glibc.write(interrupter.number, [1], 1)
  }
}
