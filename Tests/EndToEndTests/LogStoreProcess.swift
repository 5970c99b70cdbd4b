import Foundation
import Synchronization
import Testing

/// Why a test could not continue, as opposed to a claim that doesn't hold.
struct HarnessError: Error, CustomStringConvertible {
  var description: String
  init(_ description: String) { self.description = description }
}

/// How a process ended, and its output.
struct Finished: Sendable {
  /// The exit code; nil if a signal ended it.
  var exitCode: Int32?
  var signal: Int32?
  var output: [UInt8]
  var errors: String

  var text: String { String(decoding: output, as: UTF8.self) }
  /// Complete lines only: a killed process may leave a piece of one.
  var lines: [String] { outputLines.map { String(decoding: $0, as: UTF8.self) } }
  var outputLines: [ArraySlice<UInt8>] {
    output.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).dropLast()
  }
}

/// A child process with its input and output connected to the test. Standard error goes to a file, so nothing has to drain
/// it.
final class LogStoreProcess: Sendable {
  private struct State {
    var input: Int32
    var output: Int32
    var pending: [UInt8] = []
    var ending: Finished?
  }

  let pid: pid_t
  private let state: Mutex<State>
  private let errorsPath: String
  private let outputPath: String?
  private let ended = DispatchSemaphore(value: 0)

  /// Starts a program in a process group of its own.
  /// - Parameters:
  ///   - inputFile: Standard input; without it there is a pipe, see ``send(_:)``.
  ///   - outputFile: Standard output; without it there is a pipe, see ``line(within:)``.
  init(
    _ executable: String, _ arguments: [String], scratch: TemporaryDirectory,
    inputFile: String? = nil, outputFile: String? = nil
  ) throws {
    let errorsPath = scratch.newPath("errors")
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    var inputEnds: [Int32] = [-1, -1]
    var outputEnds: [Int32] = [-1, -1]
    if let inputFile {
      posix_spawn_file_actions_addopen(&actions, 0, inputFile, O_RDONLY, 0)
    } else {
      inputEnds = try makePipe(scratch)
      posix_spawn_file_actions_adddup2(&actions, inputEnds[0], 0)
    }
    if let outputFile {
      posix_spawn_file_actions_addopen(&actions, 1, outputFile, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
    } else {
      outputEnds = try makePipe(scratch)
      posix_spawn_file_actions_adddup2(&actions, outputEnds[1], 1)
    }
    posix_spawn_file_actions_addopen(&actions, 2, errorsPath, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
    let started = Result { () throws(HarnessError) in try spawn(executable, arguments, &actions) }
    if inputEnds[0] >= 0 { close(inputEnds[0]) }
    if outputEnds[1] >= 0 { close(outputEnds[1]) }
    pid = try started.get()
    self.errorsPath = errorsPath
    self.outputPath = outputFile
    self.state = Mutex(State(input: inputEnds[1], output: outputEnds[0]))
    Thread.detachNewThread { self.reap() }
  }

  deinit {
    let ends = state.withLock { ($0.input, $0.output) }
    if ends.0 >= 0 { close(ends.0) }
    if ends.1 >= 0 { close(ends.1) }
  }

  private func reap() {
    let ending = waitForChild(pid)
    state.withLock {
      $0.ending = Finished(
        exitCode: ending.isSignal ? nil : ending.code, signal: ending.isSignal ? ending.code : nil, output: [],
        errors: "")
    }
    ended.signal()
  }

  /// Sends a signal to the process alone.
  func signal(_ number: Int32) {
    state.withLock { if $0.ending == nil { _ = Foundation.kill(pid, number) } }
  }

  /// Sends a signal to the process and those that it started.
  func signalAll(_ number: Int32) {
    state.withLock { if $0.ending == nil { _ = Foundation.kill(-pid, number) } }
  }

  /// Writes to the standard input of the process.
  func send(_ text: String) async throws { try await send(Array(text.utf8)) }

  func send(_ bytes: [UInt8]) async throws {
    let descriptor = state.withLock { $0.input }
    try await onThread {
      var done = 0
      while done < bytes.count {
        let count = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress?.advanced(by: done), $0.count - done) }
        guard count > 0 else { throw HarnessError("writing to the process failed: \(errno)") }
        done += count
      }
    }
  }

  func closeInput() {
    state.withLock {
      if $0.input >= 0 { close($0.input) }
      $0.input = -1
    }
  }

  /// Closes our end of its standard output, as `head` does when it has enough.
  func closeOutput() {
    state.withLock {
      if $0.output >= 0 { close($0.output) }
      $0.output = -1
    }
  }

  /// The next line of its standard output, without the newline; nil at the end. Throws when the time is over.
  func line(within limit: Duration = .seconds(20)) async throws -> String? {
    try await onThread {
      let deadline = ContinuousClock.now + limit
      while true {
        let (line, descriptor) = self.state.withLock { state -> (String?, Int32) in
          guard let newline = state.pending.firstIndex(of: UInt8(ascii: "\n")) else { return (nil, state.output) }
          let line = String(decoding: state.pending[..<newline], as: UTF8.self)
          state.pending.removeSubrange(...newline)
          return (line, state.output)
        }
        if let line { return line }
        let left = ContinuousClock.now.duration(to: deadline)
        var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        let milliseconds = max(0, left.components.seconds * 1000 + left.components.attoseconds / 1_000_000_000_000_000)
        guard poll(&waiting, 1, Int32(milliseconds)) > 0 else {
          throw HarnessError("no line within \(limit); standard error: \(self.errorsSoFar)")
        }
        var chunk = [UInt8](repeating: 0, count: 1 << 16)
        let count = chunk.withUnsafeMutableBytes { read(descriptor, $0.baseAddress, $0.count) }
        guard count > 0 else { return nil }
        self.state.withLock { $0.pending.append(contentsOf: chunk[..<count]) }
      }
    }
  }

  /// Waits until its standard output has something to read, and reads nothing. Throws when the time is over.
  func waitUntilPrinting(within limit: Duration = .seconds(20)) async throws {
    let descriptor = state.withLock { $0.output }
    try await onThread {
      var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
      guard poll(&waiting, 1, Int32(limit.components.seconds * 1000)) > 0 else {
        throw HarnessError("no output within \(limit); standard error: \(self.errorsSoFar)")
      }
    }
  }

  /// What it has written to standard error until now.
  var errorsSoFar: String {
    String(decoding: FileManager.default.contents(atPath: errorsPath) ?? Data(), as: UTF8.self)
  }

  /// Waits until it has ended; kills it and throws when the time is over. Closes its standard input before.
  func end(within limit: Duration = .seconds(60)) async throws -> Finished {
    closeInput()
    return try await endByItself(within: limit)
  }

  /// As ``end(within:)`` with standard input left open.
  func endByItself(within limit: Duration = .seconds(60)) async throws -> Finished {
    try await onThread {
      let rest = self.outputPath == nil ? try self.drain(within: limit) : []
      let seconds = Double(limit.components.seconds) + Double(limit.components.attoseconds) / 1e18
      if self.ended.wait(timeout: .now() + seconds) == .timedOut {
        self.signalAll(SIGKILL)
        throw HarnessError("the process did not end within \(limit); standard error: \(self.errorsSoFar)")
      }
      self.ended.signal()
      guard var finished = self.state.withLock({ $0.ending }) else { throw HarnessError("no ending") }
      finished.output = self.outputPath.map { Array(FileManager.default.contents(atPath: $0) ?? Data()) } ?? rest
      finished.errors = self.errorsSoFar
      return finished
    }
  }

  /// As ``endByItself(within:)``, but its output is read only when it has ended.
  func endUnread(within limit: Duration) async throws -> Finished {
    try await onThread {
      let seconds = Double(limit.components.seconds) + Double(limit.components.attoseconds) / 1e18
      if self.ended.wait(timeout: .now() + seconds) == .timedOut {
        self.signalAll(SIGKILL)
        throw HarnessError("the process did not end within \(limit); standard error: \(self.errorsSoFar)")
      }
      self.ended.signal()
    }
    return try await endByItself()
  }

  private func drain(within limit: Duration) throws -> [UInt8] {
    let descriptor = state.withLock { $0.output }
    guard descriptor >= 0 else { return [] }
    var chunk = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
      guard poll(&waiting, 1, Int32(limit.components.seconds * 1000)) > 0 else {
        signalAll(SIGKILL)
        throw HarnessError("the process did not end within \(limit); standard error: \(errorsSoFar)")
      }
      let count = chunk.withUnsafeMutableBytes { read(descriptor, $0.baseAddress, $0.count) }
      guard count > 0 else { break }
      state.withLock { $0.pending.append(contentsOf: chunk[..<count]) }
    }
    return state.withLock { $0.pending }
  }
}

/// A pipe whose ends are close-on-exec from the start, or a child that another test starts meanwhile would keep it open.
/// (`pipe2` would do this, but isn't seen from Swift.) Reading end first.
private func makePipe(_ scratch: TemporaryDirectory) throws -> [Int32] {
  let path = scratch.newPath("pipe")
  guard mkfifo(path, 0o600) == 0 else { throw HarnessError("mkfifo failed: \(errno)") }
  defer { unlink(path) }
  // Non-blocking, so that opening doesn't wait for the other end.
  let reading = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)
  let writing = open(path, O_WRONLY | O_CLOEXEC)
  guard reading >= 0, writing >= 0, fcntl(reading, F_SETFL, 0) == 0 else { throw HarnessError("open failed: \(errno)") }
  return [reading, writing]
}

/// Runs blocking work on a thread of its own, so that tests that wait for processes don't delay the others.
func onThread<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws -> T {
  try await withCheckedThrowingContinuation { continuation in
    Thread.detachNewThread { continuation.resume(with: Result { try body() }) }
  }
}

/// A directory that is removed with its content when the last reference is gone.
final class TemporaryDirectory: Sendable {
  let path: String
  private let counter = Atomic<Int>(0)

  /// - Parameter isInMemory: on a tmpfs where there is one, for tests in which nothing depends on the disk and much on
  ///   their number.
  init(isInMemory: Bool = false) throws {
    var base = ProcessInfo.processInfo.environment["TMPDIR"] ?? "/tmp"
    if isInMemory, access("/dev/shm", W_OK) == 0 { base = "/dev/shm" }
    var template = Array("\(base)/logstore-test.XXXXXX".utf8CString)
    guard let made = mkdtemp(&template) else { throw HarnessError("mkdtemp failed: \(errno)") }
    path = String(cString: made)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  /// A path in it that no file has.
  func newPath(_ name: String) -> String {
    "\(path)/\(name).\(counter.add(1, ordering: .relaxed).newValue)"
  }
}
