import Glibc
import Synchronization

/// Removes what the benchmarks wrote, at the end or on SIGINT and SIGTERM.
final class Cleanup: Sendable {
  static let shared = Cleanup()

  private let paths = Mutex<(directories: [String], parents: [String])>(([], []))
  /// Processes that write into the directories.
  private let children = Mutex<Set<pid_t>>([])

  private init() {
    // Blocked here and in every thread that is started from now on, and taken by one that waits for nothing else.
    var signals = sigset_t()
    sigemptyset(&signals)
    sigaddset(&signals, SIGINT)
    sigaddset(&signals, SIGTERM)
    pthread_sigmask(SIG_BLOCK, &signals, nil)
    startThread { [signals] in
      var signals = signals
      var number: Int32 = 0
      sigwait(&signals, &number)
      Cleanup.shared.removeAll()
      _exit(128 + number)
    }
  }

  func add(_ directory: String, _ parent: String) {
    paths.withLock {
      $0.directories.append(directory)
      $0.parents.append(parent)
    }
  }

  func remove(_ directory: String) {
    removeTree(directory)
    let parents = paths.withLock { paths in
      paths.directories.removeAll { $0 == directory }
      return paths.directories.isEmpty ? paths.parents : []
    }
    // Only if nothing else is in it.
    for parent in Set(parents) { rmdir(parent) }
  }

  func add(child: pid_t) {
    children.withLock { _ = $0.insert(child) }
  }

  func remove(child: pid_t) {
    children.withLock { _ = $0.remove(child) }
  }

  private func removeAll() {
    // Whoever still writes would bring back what is removed. Those that were waited for are not among them, so no number
    // can have been given to another process.
    children.withLock { children in
      for child in children { kill(child, SIGKILL) }
      for child in children {
        var status: Int32 = 0
        waitpid(child, &status, 0)
      }
    }
    for directory in paths.withLock({ $0.directories }) { remove(directory) }
  }

  /// Removes a directory of files and of the systems' directories.
  private func removeTree(_ path: String) {
    guard let directory = opendir(path) else { return }
    while let entry = readdir(directory) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      guard name != ".", name != ".." else { continue }
      if unlink("\(path)/\(name)") != 0 { removeTree("\(path)/\(name)") }
    }
    closedir(directory)
    rmdir(path)
  }
}

/// Runs `body` on a thread of its own; for what blocks.
func startThread(_ body: @escaping @Sendable () -> Void) {
  final class Start: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }
  var thread = pthread_t()
  let code = pthread_create(
    &thread, nil,
    { context in
      // Balances the retain below; nobody else was given this pointer.
      context.map { Unmanaged<Start>.fromOpaque($0).takeRetainedValue().body() }
      return nil
    }, Unmanaged.passRetained(Start(body)).toOpaque())
  precondition(code == 0, "no thread could be started: \(String(cString: strerror(code)))")
  pthread_detach(thread)
}

/// Runs `body` on a thread of its own and gives its result to the task that waits.
func onThread<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws -> T {
  try await withCheckedThrowingContinuation { continuation in
    startThread { continuation.resume(with: Result { try body() }) }
  }
}
