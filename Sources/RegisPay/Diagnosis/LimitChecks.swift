import Glibc

/// Limits of the process that runs the diagnosis; a service may have others (`LimitNOFILE=` and the like).
enum ProcessLimit {
  /// Nil for no limit.
  static func hard(_ resource: __rlimit_resource) -> UInt64? {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(resource.rawValue), &limit) == 0, limit.rlim_max != rlim_t.max else {
      return nil
    }
    return UInt64(limit.rlim_max)
  }
}

/// The limit of open files, which `serve` raises to the hard limit.
struct OpenFilesCheck: Check {
  let name = CheckName.openFiles
  /// What `--max-connections` allows.
  let connections: Int

  func run() -> [Finding] { [Self.judge(ProcessLimit.hard(RLIMIT_NOFILE), connections: connections)] }

  /// - Parameter limit: nil for none.
  static func judge(_ limit: UInt64?, connections: Int) -> Finding {
    guard let limit else { return .ok(.openFiles, "there is no limit of open files") }
    let shown = "a process may have \(limit) files and connections open (hard limit)"
    guard limit >= DescriptorLimit.needed else {
      return .problem(
        .openFiles, "\(shown), and the server needs \(DescriptorLimit.needed)",
        advice: "Raise the hard limit: LimitNOFILE=65536 in the systemd unit, or ulimit -n as root.")
    }
    var limits = HTTPLimits()
    limits.connections = connections
    let possible = limits.connectionsPossible(descriptors: Int(clamping: limit))
    guard possible >= connections else {
      return .warning(
        .openFiles, "\(shown): that suffices for \(possible) of the \(connections) connections of --max-connections",
        advice:
          "Raise the hard limit: LimitNOFILE=65536 in the systemd unit, or ulimit -n as root; or lower --max-connections."
      )
    }
    return .ok(.openFiles, shown)
  }
}

/// The limit of a file's size.
struct FileSizeCheck: Check {
  let name = CheckName.fileSize
  let segmentBytes: Int

  func run() -> [Finding] { [Self.judge(ProcessLimit.hard(RLIMIT_FSIZE), segmentBytes: segmentBytes)] }

  /// - Parameter limit: nil for none.
  static func judge(_ limit: UInt64?, segmentBytes: Int) -> Finding {
    guard let limit else { return .ok(.fileSize, "there is no limit of a file's size") }
    let shown = "a file may have at most \(Shown.bytes(limit))"
    guard limit >= UInt64(max(0, segmentBytes)) else {
      return .problem(
        .fileSize, "\(shown), and a segment of a log has \(Shown.bytes(UInt64(segmentBytes)))",
        advice: "Raise the limit (ulimit -f, LimitFSIZE= in the systemd unit), or lower --segment-bytes.")
    }
    // The SQLite files grow with the number of payments.
    return .warning(
      .fileSize, "\(shown), and the list of payments grows with their number",
      advice: "Remove the limit (ulimit -f unlimited, LimitFSIZE=infinity in the systemd unit).")
  }
}

/// The limits of threads.
struct ThreadsCheck: Check {
  let name = CheckName.threads

  func run() -> [Finding] {
    let group = ControlGroup.current
    let left = group?.least("pids.max").map { most in most - min(most, group?.number("pids.current") ?? 0) }
    // Root may start as many as it likes.
    let ofUser = geteuid() == 0 ? nil : ProcessLimit.hard(__RLIMIT_NPROC)
    return [Self.judge(ofUser: ofUser, leftInGroup: left, needed: Server.neededThreads)]
  }

  /// - Parameters:
  ///   - ofUser: the limit of all processes and threads of the user; nil for none.
  ///   - leftInGroup: those that the control group may still start; nil for any number.
  static func judge(ofUser: UInt64?, leftInGroup: UInt64?, needed: Int) -> Finding {
    guard let least = [ofUser, leftInGroup].compactMap({ $0 }).min() else {
      return .ok(.threads, "there is no limit of threads; the server starts up to \(needed)")
    }
    let shown =
      least == leftInGroup
      ? "the control group may start \(least) more threads" : "the user may have \(least) threads and processes"
    guard least >= UInt64(needed) else {
      return .problem(
        .threads, "\(shown), and the server starts up to \(needed)",
        advice: "Raise the limit (ulimit -u, TasksMax= in the systemd unit), or end other processes.")
    }
    return .ok(.threads, "\(shown); the server starts up to \(needed)")
  }
}

/// Whether a program that follows a log can watch its files: `logstore tail` and the like. The server itself watches none.
struct InotifyCheck: Check {
  let name = CheckName.inotify

  func run() -> [Finding] {
    let limit = KernelFile.number("/proc/sys/fs/inotify/max_user_instances")
    let shown = limit.map { "the user may have \($0) inotify instances" } ?? "inotify works"
    let watch = inotify_init1(O_CLOEXEC)
    guard watch >= 0 else {
      return [Self.judge(failure: errno, shown)]
    }
    close(watch)
    return [.ok(name, shown)]
  }

  /// - Parameter failure: of inotify_init1(2).
  static func judge(failure: Int32, _ shown: String) -> Finding {
    .warning(
      .inotify, "\(shown), and another one can't be made: \(Shown.error(failure))",
      advice:
        "Programs that follow a log (logstore tail) can't start; the server can. Raise fs.inotify.max_user_instances"
        + " (sysctl), or end programs that have many.")
  }
}
