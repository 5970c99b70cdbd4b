import Glibc
import Synchronization

/// A second process of this program, with its input and output connected to this one. It ends with this process, however
/// this one ends: see ``endWithParent()``.
final class ChildProcess: Sendable {
  let pid: pid_t
  private let input: Int32
  private let output: Int32
  private let unread = Mutex<[UInt8]>([])
  private let isEnded = Mutex(false)

  init(_ arguments: [String]) throws {
    var inputEnds: [Int32] = [-1, -1]
    var outputEnds: [Int32] = [-1, -1]
    guard pipe(&inputEnds) == 0, pipe(&outputEnds) == 0 else { throw BenchError("pipe failed: \(errno)") }
    // The child must not inherit this process's ends, nor must any later child.
    for end in [inputEnds[1], outputEnds[0]] { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, inputEnds[0], 0)
    posix_spawn_file_actions_adddup2(&actions, outputEnds[1], 1)
    for end in [inputEnds[0], outputEnds[1]] { posix_spawn_file_actions_addclose(&actions, end) }
    var argv = (["bench"] + arguments).map { strdup($0) } + [nil]
    defer { for pointer in argv { free(pointer) } }
    var pid = pid_t()
    let code = posix_spawn(&pid, "/proc/self/exe", &actions, nil, &argv, environ)
    close(inputEnds[0])
    close(outputEnds[1])
    guard code == 0 else { throw BenchError("starting a process failed: \(String(cString: strerror(code)))") }
    self.pid = pid
    input = inputEnds[1]
    output = outputEnds[0]
    Cleanup.shared.add(child: pid)
  }

  deinit {
    close(input)
    wait()
    close(output)
  }

  /// Asks it to end, and waits until it has.
  func terminate() {
    kill(pid, SIGTERM)
    wait()
  }

  /// Ends it as a crash does, and waits until it is gone.
  func killHard() {
    kill(pid, SIGKILL)
    wait()
  }

  private func wait() {
    isEnded.withLock { isEnded in
      if isEnded { return }
      var status: Int32 = 0
      while waitpid(pid, &status, 0) < 0, errno == EINTR {}
      Cleanup.shared.remove(child: pid)
      isEnded = true
    }
  }

  /// The next line that it prints, without the newline; nil when it prints no more.
  func line() -> String? {
    unread.withLock { unread in
      var searched = 0
      while true {
        if let newline = unread[searched...].firstIndex(of: UInt8(ascii: "\n")) {
          let line = String(decoding: unread[..<newline], as: UTF8.self)
          unread.removeSubrange(...newline)
          return line
        }
        searched = unread.count
        var chunk = [UInt8](repeating: 0, count: 1 << 16)
        let count = read(output, &chunk, chunk.count)
        guard count > 0 else { return nil }
        unread.append(contentsOf: chunk[..<count])
      }
    }
  }
}

/// For a process that was started as ``ChildProcess``: ends it when its parent closes its input, or is gone.
func endWithParent() {
  startThread {
    var byte: UInt8 = 0
    while read(STDIN_FILENO, &byte, 1) > 0 {}
    _exit(1)
  }
}
