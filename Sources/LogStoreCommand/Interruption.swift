import CStart
import Glibc
import Synchronization

/// SIGINT, SIGTERM and SIGHUP as something to wait for; a SIGHUP that is ignored at the start, as under `nohup`, stays ignored. The first one asks the command to finish what it began; a second one
/// ends the process at once, since its default action is back by then.
enum Interruption {
  /// The writing end of the pipe that the signal handler speaks into; -1 before ``descriptor()``.
  private static let wakeDescriptor = Atomic<Int32>(-1)

  /// Starts to catch the signals. Returns a descriptor that becomes readable when one has come. Called once.
  static func descriptor() throws(CommandFailure) -> Int32 {
    var ends: [Int32] = [-1, -1]
    guard pipe(&ends) == 0 else {
      throw CommandFailure(
        message:
          "a pipe could not be made: \(String(cString: strerror(errno))); raise the limit of open files (ulimit -n)")
    }
    wakeDescriptor.store(ends[1], ordering: .releasing)
    for number in [SIGINT, SIGTERM] + (cstart_is_ignored(SIGHUP) ? [] : [SIGHUP]) {
      signal(number) { number in
        // Only what may be called in a signal handler.
        signal(number, SIG_DFL)
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

  /// Waits on a thread of its own for a signal, or for the reader of standard output to go away, and calls `body` once.
  /// Without it a follower that has nothing to print would never notice either. Called once, too, when waiting fails.
  static func watch(_ body: @escaping @Sendable () -> Void) throws(CommandFailure) -> Watch {
    let interrupted = try descriptor()
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
