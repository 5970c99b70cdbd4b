import Foundation

/// How a child process ended: with an exit code, or by a signal of this number.
struct ChildEnding: Sendable, Hashable {
  var code: Int32
  var isSignal: Bool
}

/// Starts a program in a process group of its own, with the environment of the tests and no descriptors of theirs but
/// those that `actions` gives it.
///
/// Foundation's `Process` is not used: with Swift 6.3.1, `run()` lists the tests' open descriptors and copies 256 bytes of
/// each entry, also of the last one in its buffer, and so ends the tests now and then when some 1,350 descriptors are open.
func spawn(
  _ executable: String, _ arguments: [String], _ actions: inout posix_spawn_file_actions_t
) throws(HarnessError) -> pid_t {
  keepDescriptors()
  var attributes = posix_spawnattr_t()
  posix_spawnattr_init(&attributes)
  defer { posix_spawnattr_destroy(&attributes) }
  // As from a shell, also where the tests themselves run under nohup.
  var defaults = sigset_t()
  sigemptyset(&defaults)
  sigaddset(&defaults, SIGHUP)
  posix_spawnattr_setsigdefault(&attributes, &defaults)
  // The thread that tests happen to run on may hold some back.
  var none = sigset_t()
  sigemptyset(&none)
  posix_spawnattr_setsigmask(&attributes, &none)
  posix_spawnattr_setflags(
    &attributes, Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK))
  posix_spawnattr_setpgroup(&attributes, 0)
  var argv = ([executable] + arguments).map { strdup($0) } + [nil]
  var environment = ProcessInfo.processInfo.environment.map { strdup("\($0.key)=\($0.value)") } + [nil]
  defer { for pointer in argv + environment { free(pointer) } }
  var pid = pid_t()
  let code = posix_spawnp(&pid, executable, &actions, &attributes, &argv, &environment)
  guard code == 0 else {
    let hint = executable == "strace" ? "; install the Debian package strace" : ""
    throw HarnessError("\(executable) could not be started: \(String(cString: strerror(code)))\(hint)")
  }
  return pid
}

/// Waits until a child has ended; holds the calling thread meanwhile.
func waitForChild(_ pid: pid_t) -> ChildEnding {
  var status: Int32 = 0
  while waitpid(pid, &status, 0) < 0 && errno == EINTR {}
  let signal = status & 0x7F
  return ChildEnding(code: signal == 0 ? (status >> 8) & 0xFF : signal, isSignal: signal != 0)
}

/// Marks all open descriptors as not for children: neither those that the tests inherited, which would count against a
/// child's limits, nor their connections to a server, which would stay open in a child after the test has closed them.
private func keepDescriptors() {
  guard let directory = opendir("/proc/self/fd") else { return }
  defer { closedir(directory) }
  while let entry = readdir(directory) {
    // In place: an entry in the directory's buffer may be shorter than its type.
    let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
      String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
    if let number = Int32(name), number > 2 { _ = fcntl(number, F_SETFD, FD_CLOEXEC) }
  }
}
