import CStart
import Glibc
import Logging
import RegisPay

/// What every process that runs a server does around it: signals, limits of the system, the stop.
enum ServerProcess {
  /// Ignores the signals of failed writes. Called first.
  static func ignoreWriteSignals() {
    // A file that reaches the size limit fails the write with EFBIG, which the log reports; the signal would end the process.
    signal(SIGXFSZ, SIG_IGN)
    // A write to a pipe that nobody holds any more fails; the signal would end the process. Until there is a socket, no library
    // ignores it.
    signal(SIGPIPE, SIG_IGN)
  }

  /// The signals that stop a server.
  ///
  /// - Parameter endsOnHangup: SIGHUP too, unless the process was started to ignore it.
  static func stopSignals(endsOnHangup: Bool) -> [Int32] {
    [SIGTERM, SIGINT] + (endsOnHangup && !cstart_is_ignored(SIGHUP) ? [SIGHUP] : [])
  }

  /// From now on these signals end the process at once, until ``run(_:stopTimeout:stop:body:)`` takes them. Until a server runs, a stop
  /// has nothing to finish: what was written is as safe as at a kill -9.
  static func end(on signals: [Int32]) {
    for number in signals { cstart_end_on(number) }
  }

  /// Ends the process if the system allows it too little, and sets the allocator.
  static func prepare() {
    DescriptorLimit.raise()
    let descriptors = DescriptorLimit.current
    guard descriptors >= DescriptorLimit.needed else {
      fail(
        "the limit of open files is \(descriptors), and the server needs \(DescriptorLimit.needed); raise the hard limit"
          + " (ulimit -n \(DescriptorLimit.needed), or LimitNOFILE= in the systemd unit)"
      )
    }
    let threads = Int(cstart_startable_threads(Int32(Server.neededThreads)))
    guard threads == Server.neededThreads else {
      fail(
        "the system lets the server start \(threads) threads, and it needs \(Server.neededThreads); end some processes or"
          + " threads, or raise the limit (ulimit -u, ulimit -v, TasksMax= in the systemd unit)")
    }
    Allocator.keepMemoryFlat()
    let code = Allocator.keepReserve()
    guard code == 0 else { fail("the system lets the server start no thread: \(String(cString: strerror(code)))") }
  }

  static var logger: Logger { Logger(label: "regispay") { _ in LogOutput.writer.handler() } }

  /// Runs a server until it has stopped, and ends the process then, with exit code 0.
  ///
  /// A return from the command would do so on the main thread's queue, for which libdispatch makes a thread. It waits for ever if the
  /// system gives none, and the stop's deadline is over.
  ///
  /// - Parameters:
  ///   - signals: each calls `stop`, on a thread that exists already.
  ///   - stopTimeout: seconds, for the line that says that they have passed.
  ///   - body: runs the server, and calls its argument when a stop takes too long.
  static func run(
    _ signals: [Int32], stopTimeout: Int, stop: @escaping @Sendable () -> Void,
    body: (_ onOverdue: @escaping @Sendable () -> Void) async throws -> Void
  ) async throws -> Never {
    let reserves = (stop: AddressReserve(byteCount: 16 << 20), line: AddressReserve(byteCount: 4 << 20))
    StopSignals.handle(signals) {
      reserves.stop.free()
      stop()
    }
    try await body {
      reserves.line.free()
      let line = LogOutput.writer.failure(
        "the stop took longer than the \(stopTimeout) seconds of --stop-timeout; the next start finishes the rest")
      // As after kill -9, no acknowledged payment is lost. Nothing waits here for other threads, which may hang.
      cstart_fail(line, line.utf8.count)
    }
    LogOutput.standardError.flush(seconds: 1)
    exit(0)
  }

  /// Prints a line on standard output at once.
  static func announce(_ line: String) {
    print(line)
    // Without this a pipe would show the line only when the buffer is full.
    fflush(nil)
  }
}

/// Prints one line that says what went wrong, and ends the process with exit code 1.
func fail(_ message: String) -> Never {
  LogOutput.standardError.write(LogOutput.writer.failure(message))
  LogOutput.standardError.flush(seconds: 1)
  exit(1)
}
