import CStart
import Glibc
import Synchronization

/// Makes SIGINT, SIGTERM and SIGHUP something to wait for. A SIGHUP that is ignored at the start, as under `nohup`, stays
/// ignored. The first signal asks the command to finish what it began, without waiting for a reader that does not read. A
/// second one ends the process at once, since the default action is restored by then.
enum Interruption {
  /// The write end of the pipe that the signal handler writes to; -1 before ``descriptor()``.
  private static let wakeDescriptor = Atomic<Int32>(-1)
  /// The read end, which nobody reads: once readable it stays so. -1 before ``descriptor()``.
  private static let readDescriptor = Atomic<Int32>(-1)
  /// Whether a signal came; ``wake()`` alone does not count.
  private static let hasCome = Atomic(false)
  /// How long the command waits, after a signal, for a reader that reads nothing.
  private static let patienceMilliseconds: Int32 = 400
  private static let recheckMilliseconds: Int32 = 100

  /// Whether signals are caught, and don't end the process by themselves.
  static var isCaught: Bool { readDescriptor.load(ordering: .acquiring) >= 0 }

  /// Starts to catch the signals. Returns a descriptor that becomes readable when one has come. Called once.
  static func descriptor() throws(CommandFailure) -> Int32 {
    var ends: [Int32] = [-1, -1]
    guard pipe(&ends) == 0 else {
      throw CommandFailure(
        message:
          "a pipe could not be made: \(String(cString: strerror(errno))); raise the limit of open files (ulimit -n)")
    }
    wakeDescriptor.store(ends[1], ordering: .releasing)
    readDescriptor.store(ends[0], ordering: .releasing)
    for number in [SIGINT, SIGTERM] + (cstart_is_ignored(SIGHUP) ? [] : [SIGHUP]) {
      signal(number) { number in
        // Only calls that are allowed in a signal handler.
        signal(number, SIG_DFL)
        Interruption.hasCome.store(true, ordering: .releasing)
        Interruption.wake()
      }
    }
    return ends[0]
  }

  /// Makes the descriptor readable, as a signal does.
  static func wake() {
    var byte: UInt8 = 0
    _ = write(wakeDescriptor.load(ordering: .acquiring), &byte, 1)
  }

  /// Blocks until a descriptor accepts bytes, or can't be written to. After a signal it waits only for a moment, so that a
  /// slow reader gets everything, and one that has stopped delays nobody.
  static func waitForRoom(in descriptor: Int32) throws(OutputError) {
    // After `wake()` the pipe is readable too, and would end each wait at once.
    var isAwake = false
    while true {
      let isOver = hasCome.load(ordering: .acquiring)
      var waiting = [
        pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0),
        pollfd(
          fd: isOver || isAwake ? -1 : readDescriptor.load(ordering: .acquiring), events: Int16(POLLIN), revents: 0),
      ]
      let ready = poll(&waiting, 2, isOver ? patienceMilliseconds : isAwake ? recheckMilliseconds : -1)
      // If poll fails, try the write; its error says why.
      if ready < 0, errno != EINTR { return }
      if ready > 0, waiting[0].revents != 0 { return }
      if ready == 0, isOver { throw .interrupted }
      if ready > 0 { isAwake = true }
    }
  }

  /// Waits on a thread of its own for a signal, or for the reader of standard output to close it, and calls `body` once.
  /// Without it a follower that has nothing to print would notice neither. Also calls `body` if waiting fails.
  ///
  /// - Parameter interrupted: from ``descriptor()``.
  static func watch(_ interrupted: Int32, _ body: @escaping @Sendable () -> Void) -> Watch {
    let watch = Watch()
    startThread {
      var waiting = [
        pollfd(fd: interrupted, events: Int16(POLLIN), revents: 0),
        // Only errors: POLLERR comes when the other end of a pipe is closed.
        pollfd(fd: STDOUT_FILENO, events: 0, revents: 0),
      ]
      while poll(&waiting, 2, -1) < 0 {
        let code = errno
        if code == EINTR { continue }
        watch.failed(code)
        break
      }
      body()
    }
    return watch
  }

  /// A wait for an interruption.
  final class Watch: Sendable {
    private let code: Mutex<Int32?> = Mutex(nil)

    /// Why waiting failed; nil if there was an interruption, or none so far.
    var failure: CommandFailure? {
      code.withLock { $0 }.map {
        CommandFailure(
          message: "waiting for a signal, or for the end of standard output's reader, failed: "
            + "\(String(cString: strerror($0))); start it again")
      }
    }

    fileprivate func failed(_ code: Int32) { self.code.withLock { $0 = code } }
  }
}

/// Runs `body` on a thread of its own, for calls that block: those must not occupy the threads that tasks share.
func startThread(_ body: @escaping @Sendable () -> Void) {
  final class Start: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }
  var thread = pthread_t()
  let context = Unmanaged.passRetained(Start(body)).toOpaque()
  let code = pthread_create(
    &thread, nil,
    { context in
      // Balances the retain above; only this thread has the pointer.
      context.map { Unmanaged<Start>.fromOpaque($0).takeRetainedValue().body() }
      return nil
    }, context)
  precondition(code == 0, "no thread could be started: \(String(cString: strerror(code)))")
  pthread_detach(thread)
}
