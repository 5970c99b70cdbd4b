import Foundation

/// The socket units of systemd: sockets that it holds, and starts services with. See systemd.socket(5) and, for the directories,
/// systemd.unit(5).
struct SocketUnit: Sendable, Hashable {
  private static let directories = [
    "/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system",
  ]

  /// Such as `regispay.socket`.
  let name: String
  /// Its service is a RegisPay server.
  let isForRegisPay: Bool

  /// The unit that listens on a port; the one of a RegisPay server if there are several. Blocks for reads of small files.
  ///
  /// - Parameter directories: an earlier one counts more.
  static func listening(on port: Int, in directories: [String] = directories) -> SocketUnit? {
    var names: Set<String> = []
    for directory in directories {
      // Without systemd there is no such directory.
      names.formUnion((try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? [])
    }
    let units = names.sorted().filter { $0.hasSuffix(".socket") }.compactMap { name -> SocketUnit? in
      let lines = lines(name, directories)
      guard values("ListenStream", lines).contains(where: { Self.port($0) == port }) else { return nil }
      let service = values("Service", lines).last ?? name.replacing(".socket", with: ".service")
      let commands = values("ExecStart", Self.lines(service, directories))
      return SocketUnit(name: name, isForRegisPay: commands.contains { $0.contains("regispay") })
    }
    return units.first(where: \.isForRegisPay) ?? units.first
  }

  /// The lines of a unit's file and of those that add to it.
  private static func lines(_ name: String, _ directories: [String]) -> [Substring] {
    let file = directories.map { "\($0)/\(name)" as String }.first { FileManager.default.fileExists(atPath: $0) }
    // Most units have no such directory.
    let additions = directories.flatMap { directory in
      ((try? FileManager.default.contentsOfDirectory(atPath: "\(directory)/\(name).d")) ?? []).sorted()
        .filter { $0.hasSuffix(".conf") }.map { "\(directory)/\(name).d/\($0)" }
    }
    return ((file.map { [$0] } ?? []) + additions).flatMap { path -> [Substring] in
      // One that can't be read says nothing.
      guard let bytes = try? SmallFile.readNamed(path) else { return [] }
      return String(decoding: bytes, as: UTF8.self).split(separator: "\n")
    }
  }

  /// The values of a key, since it was last emptied.
  private static func values(_ key: String, _ lines: [Substring]) -> [String] {
    var values: [String] = []
    for line in lines {
      let parts = line.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      guard parts.count == 2, parts[0].trimmingCharacters(in: .whitespaces) == key else { continue }
      let value = parts[1].trimmingCharacters(in: .whitespaces)
      if value.isEmpty { values = [] } else { values.append(value) }
    }
    return values
  }

  /// The port of `8080`, `127.0.0.1:8080` or `[::]:8080`; nil for a socket of another kind.
  private static func port(_ address: String) -> Int? {
    guard !address.hasPrefix("/"), !address.hasPrefix("@"), !address.hasPrefix("vsock:") else { return nil }
    return address.split(separator: ":").last.flatMap { Int($0) }
  }
}
