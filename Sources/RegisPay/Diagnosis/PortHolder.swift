import Foundation

/// Which process listens on a port, by `/proc`: only root sees those of other users.
enum PortHolder: Sendable, Hashable {
  /// The server of the data directory: it has the lock file of the payments log open.
  case server(String)
  /// Another process, as `process 4711 (nginx)`.
  case other(String)
  /// A manager of services, which starts a server with the socket that it holds.
  case manager(String)
  /// - Parameter isRoots: root has made the socket.
  case unknown(isRoots: Bool)

  /// Blocks for about a microsecond for each open file of the machine.
  ///
  /// - Parameter directory: the data directory, an absolute path.
  init(port: Int, directory: String) {
    let listening = Self.sockets(port: port)
    let sockets = Set(listening.map { "socket:[\($0.inode)]" })
    let lock = URL(fileURLWithPath: directory).resolvingSymlinksInPath().path + "/payments/lock"
    var found = PortHolder.unknown(isRoots: !listening.isEmpty && listening.allSatisfy { $0.user == 0 })
    for process in Self.names("/proc").compactMap({ pid_t($0) }) where !sockets.isEmpty {
      let files = Set(Self.names("/proc/\(process)/fd").compactMap { Self.target("/proc/\(process)/fd/\($0)") })
      guard !files.isDisjoint(with: sockets) else { continue }
      let name = KernelFile.text("/proc/\(process)/comm")?.trimmingCharacters(in: .whitespacesAndNewlines)
      let shown = "process \(process)" + (name.map { " (\($0))" } ?? "")
      let holder: PortHolder =
        files.contains(lock) ? .server(shown) : name?.hasPrefix("systemd") == true ? .manager(shown) : .other(shown)
      if holder.rank > found.rank { found = holder }
    }
    self = found
  }

  /// Of several processes that hold the socket, the one that serves it counts: a child may have inherited it, and a manager of services
  /// keeps what it hands over.
  private var rank: Int {
    switch self {
    case .server: 3
    case .other: 2
    case .manager: 1
    case .unknown: 0
    }
  }

  /// The sockets that listen on a port: proc_pid_net(5).
  private static func sockets(port: Int) -> [(inode: String, user: uid_t?)] {
    let digits = String(port, radix: 16, uppercase: true)
    let suffix = ":" + String(repeating: "0", count: max(0, 4 - digits.count)) + digits
    let listening = "0A"
    return ["/proc/net/tcp", "/proc/net/tcp6"].flatMap { path in
      (KernelFile.text(path) ?? "").split(separator: "\n").compactMap { line -> (String, uid_t?)? in
        let words = line.split(separator: " ")
        guard words.count > 9, words[1].hasSuffix(suffix), words[3] == listening else { return nil }
        return (String(words[9]), uid_t(words[7]))
      }
    }
  }

  /// The names in a directory; none if this user may not see them.
  private static func names(_ path: String) -> [String] {
    (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []
  }

  /// Nil if the process has closed it meanwhile, or this user may not see it.
  private static func target(_ link: String) -> String? {
    try? FileManager.default.destinationOfSymbolicLink(atPath: link)
  }
}
