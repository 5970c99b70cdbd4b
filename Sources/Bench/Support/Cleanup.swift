import Glibc
import Synchronization

/// The descriptor by which the signal handler notifies the thread that cleans up; a handler may do little more than write.
private let wakingEnd = Atomic<Int32>(-1)

/// Removes what the benchmarks wrote, at the end or on SIGINT and SIGTERM.
final class Cleanup: Sendable {
  static let shared = Cleanup()

  private let paths = Mutex<(directories: [String], parents: [String])>(([], []))
  /// Processes that write into the directories.
  private let children = Mutex<Set<pid_t>>([])

  private init() {
    var ends: [Int32] = [-1, -1]
    guard pipe(&ends) == 0 else { return }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    wakingEnd.store(ends[1], ordering: .releasing)
    // A handler, not a mask: threads that were started before have masks of their own.
    var action = sigaction()
    action.__sigaction_handler.sa_handler = { number in
      var byte = UInt8(truncatingIfNeeded: number)
      write(wakingEnd.load(ordering: .acquiring), &byte, 1)
    }
    for number in [SIGINT, SIGTERM] { sigaction(number, &action, nil) }
    startThread { [wakened = ends[0]] in
      var number: UInt8 = 0
      while read(wakened, &number, 1) != 1 {}
      Cleanup.shared.removeAll()
      _exit(128 + Int32(number))
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
    // Running work fails when its files disappear. It can't report that to anyone, and must not end the process before
    // everything is removed.
    let silent = open("/dev/null", O_WRONLY)
    dup2(silent, STDERR_FILENO)
    atexit { while true { pause() } }
    // A process that still writes would recreate what is removed. Processes that were waited for are not among them, so no
    // number can belong to another process by now.
    let running = children.withLock { $0 }
    for child in running { kill(child, SIGKILL) }
    for child in running {
      var status: Int32 = 0
      waitpid(child, &status, 0)
    }
    for directory in paths.withLock({ $0.directories }) {
      // Threads of this process may still make files in it.
      for _ in 0..<Self.attempts {
        removeTree(directory)
        if access(directory, F_OK) != 0 { break }
        usleep(Self.pauseMicroseconds)
      }
      remove(directory)
    }
  }

  private static let attempts = 500
  private static let pauseMicroseconds: UInt32 = 2000

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
      // Balances the retain below; nothing else has the pointer.
      context.map { Unmanaged<Start>.fromOpaque($0).takeRetainedValue().body() }
      return nil
    }, Unmanaged.passRetained(Start(body)).toOpaque())
  precondition(code == 0, "no thread could be started: \(String(cString: strerror(code)))")
  pthread_detach(thread)
}

/// Runs `body` on a thread of its own and returns its result to the waiting task.
func onThread<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws -> T {
  try await withCheckedThrowingContinuation { continuation in
    startThread { continuation.resume(with: Result { try body() }) }
  }
}
