import CStart
import Glibc
import Synchronization

/// SIGINT, SIGTERM and SIGHUP as something to wait for; a SIGHUP that is ignored at the start, as under `nohup`, stays ignored.
/// The first one asks the command to finish what it began, without waiting for a reader that does not read; a second one ends
/// the process at once, since its default action is back by then.
enum Interruption {
  /// The writing end of the pipe that the signal handler speaks into; -1 before ``descriptor()``.
  private static let wakeDescriptor = Atomic<Int32>(-1)
  /// The reading end, which nobody reads: once readable it stays so. -1 before ``descriptor()``.
  private static let readDescriptor = Atomic<Int32>(-1)
  /// A signal came; ``wake()`` alone is none.
  private static let hasCome = Atomic(false)
  /// How long a reader that reads nothing is waited for after a signal.
  private static let patienceMilliseconds: Int32 = 400
  private static let lookMilliseconds: Int32 = 100

  /// Whether signals are waited for, and don't end the process by themselves.
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
        // Only what may be called in a signal handler.
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

  /// Blocks until a descriptor takes something, or can't be written to. After a signal it waits for a moment only, so that a
  /// slow reader gets all, and one that has stopped keeps nobody.
  static func waitForRoom(in descriptor: Int32) throws(OutputError) {
    // The pipe is readable also after `wake()`, and would then end each wait at once.
    var isAwake = false
    while true {
      let isOver = hasCome.load(ordering: .acquiring)
      var waiting = [
        pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0),
        pollfd(
          fd: isOver || isAwake ? -1 : readDescriptor.load(ordering: .acquiring), events: Int16(POLLIN), revents: 0),
      ]
      let ready = poll(&waiting, 2, isOver ? patienceMilliseconds : isAwake ? lookMilliseconds : -1)
      // What can't be polled is written to all the same, and the write says why it can't be.
      if ready < 0, errno != EINTR { return }
      if ready > 0, waiting[0].revents != 0 { return }
      if ready == 0, isOver { throw .interrupted }
      if ready > 0 { isAwake = true }
    }
  }

  /// Waits on a thread of its own for a signal, or for the reader of standard output to go away, and calls `body` once.
  /// Without it a follower that has nothing to print would never notice either. Called once, too, when waiting fails.
  ///
  /// - Parameter interrupted: from ``descriptor()``.
  static func watch(_ interrupted: Int32, _ body: @escaping @Sendable () -> Void) -> Watch {
    let watch = Watch()
    startThread {
      var waiting = [
        pollfd(fd: interrupted, events: Int16(POLLIN), revents: 0),
        // Only errors are asked for: POLLERR comes when the other end of a pipe is closed.
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

    /// Why nothing is waited for any more; nil if there was an interruption, or none so far.
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

/// Runs `body` on a thread of its own, for calls that block: those must not sit on the threads that tasks share.
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
      // Balances the retain above; the thread is the only one that was given this pointer.
      context.map { Unmanaged<Start>.fromOpaque($0).takeRetainedValue().body() }
      return nil
    }, context)
  precondition(code == 0, "no thread could be started: \(String(cString: strerror(code)))")
  pthread_detach(thread)
}
