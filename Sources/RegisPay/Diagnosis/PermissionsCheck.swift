import CLinux
import Foundation

/// Whether the data directory is one, whether this user can use it, and whether others can't.
struct PermissionsCheck: Check {
  let name = CheckName.permissions
  let directory: String
  /// `--group-access`.
  let isForGroup: Bool

  /// Files that are looked at: far more than any server has had. In time they cost about a microsecond each.
  private static let fileLimit = 200_000
  private static let folders = ["payments", "simulator", "projection", "webhooks"]
  private static let secrets = ["keys.sqlite", "webhooks/webhooks.sqlite"]

  func run() -> [Finding] {
    let place = DataPlace(directory)
    switch place.state {
    case .missing: return [missing(place)]
    case .noDirectory:
      return [.problem(name, "\(place.path) is no directory", advice: "Remove it, or give another --dir.")]
    case .dangling(let link):
      return [
        .problem(
          name, "\(link) is a symbolic link that leads to nothing, and the server can't make a directory there",
          advice: "Make what it leads to (a disk that is not mounted?), remove it, or give another --dir.")
      ]
    case .unreachable(let code):
      return [
        .problem(
          name, "can't reach \(place.path): \(Shown.error(code))",
          advice: "Run as the server's user, or let that user into the directories above (chmod, chown).")
      ]
    case .directory: break
    }
    let findings = ownDirectory(place) + unwritable(place) + exposed(place)
    return findings.isEmpty
      ? [.ok(name, "\(place.path) is private to user \(geteuid())\(isForGroup ? "; its group can read the logs" : "")")]
      : findings
  }

  private func missing(_ place: DataPlace) -> Finding {
    let shown = "\(place.path) does not exist yet"
    if let code = Self.refusal(place.existing, W_OK | X_OK) {
      return .problem(
        name, "\(shown), and user \(geteuid()) can't make it in \(place.existing): \(Shown.error(code))",
        advice: "Make it and give it to the server's user: mkdir -m 700, chown; or run as that user.")
    }
    return .ok(name, "\(shown); the server will make it, for user \(geteuid()) alone")
  }

  /// What keeps this user from using the directory.
  private func ownDirectory(_ place: DataPlace) -> [Finding] {
    var findings: [Finding] = []
    do throws(DataDirectory.Refusal) {
      try DataDirectory.check(place.path, for: .server)
    } catch {
      return [
        .problem(name, "can't use \(place.path) as data directory: \(error)", advice: "Give the right --dir.")
      ]
    }
    guard let owner = Self.status(place.path)?.st_uid else { return [] }
    if owner != geteuid() {
      findings.append(
        .warning(
          name, "\(place.path) belongs to user \(owner), and this is user \(geteuid())",
          advice:
            "Run this command as the server's user (runuser -u NAME -- regispay doctor …): what it says of permissions and"
            + " limits is true for the user that runs it."))
    }
    if let code = Self.refusal(place.path, R_OK | W_OK | X_OK) {
      findings.append(
        .problem(
          name, "user \(geteuid()) can't write to \(place.path): \(Shown.error(code))",
          advice: code == EROFS
            ? "Mount the file system with rw." : "Give it to the server's user (chown -R), or run as that user."))
    }
    return findings + strangers(place, owner)
  }

  /// What the server would refuse, or could not write to: another user's files, and what is no file.
  private func strangers(_ place: DataPlace, _ owner: uid_t) -> [Finding] {
    var foreign: [String] = []
    var special: [String] = []
    var left = Self.fileLimit
    for folder in [""] + Self.folders.map({ "/" + $0 }) {
      for entry in Self.entries(place.path + folder, limit: left) {
        left -= 1
        guard folder != "" || DataDirectory.isOwn(entry), let status = Self.status("\(place.path)\(folder)/\(entry)"),
          entry != "lost+found"
        else { continue }
        let shown = (folder + "/" + entry).dropFirst()
        if status.st_uid != owner { foreign.append(String(shown)) }
        let kind = status.st_mode & S_IFMT
        let isFolder = folder == "" && Self.folders.contains(entry)
        // A link counts as what it leads to.
        let isRight = isFolder ? DataPlace("\(place.path)/\(entry)").isThere : [S_IFREG, S_IFLNK].contains(kind)
        if !isRight { special.append(String(shown)) }
      }
    }
    var findings: [Finding] = []
    if let first = foreign.first {
      findings.append(
        .problem(
          name, "\(foreign.count) of the files in \(place.path) belong to another user than it does, such as \(first)",
          advice: "The server does not write to them: chown -R \(owner) \(place.path)"))
    }
    if let first = special.first {
      findings.append(
        .problem(
          name,
          "\(special.count) of the names in \(place.path) are not the file or directory that the server needs there, such as \(first)",
          advice: "Find out what made them, and move them out of the data directory."))
    }
    return findings
  }

  /// Files that the server writes, and can't: as a rule somebody has made them immutable (chattr).
  private func unwritable(_ place: DataPlace) -> [Finding] {
    // What another user than the server's may write says nothing; what keeps this one from all of it was said.
    let isUser =
      Self.status(place.path).map { [$0.st_uid, 0].contains(geteuid()) } == true
      && Self.refusal(place.path, W_OK) == nil
    var found: [String] = []
    var left = Self.fileLimit
    for folder in [""] + Self.folders.map({ "/" + $0 }) {
      let names = Self.entries(place.path + folder, limit: left)
      left -= names.count
      // Of segments, the server writes to the last one. Index files it makes and removes.
      let last = names.filter { $0.hasSuffix(".log") }.max()
      for name in names where folder == "" ? DataDirectory.isOwn(name) : !name.hasSuffix(".log") || name == last {
        let path = "\(place.path)\(folder)/\(name)"
        guard let kind = Self.status(path).map({ $0.st_mode & S_IFMT }), kind == S_IFREG || kind == S_IFDIR else {
          continue
        }
        let isRefused = isUser && name != "lost+found" && !name.hasSuffix(".idx") && Self.refusal(path, W_OK) != nil
        if isRefused || clinux_is_fixed(path) != 0 {
          found.append(String((folder + "/" + name).dropFirst()))
        }
      }
    }
    guard let first = found.min() else { return [] }
    let more = found.count == 1 ? "" : ", and \(found.count - 1) more files"
    return [
      .problem(
        name, "\(place.path)/\(first) can't be written\(more)",
        advice: "Look at its mode (ls -l) and its attributes (lsattr): chmod u+w, chattr -i -a.")
    ]
  }

  /// What others may read or change.
  private func exposed(_ place: DataPlace) -> [Finding] {
    var lines = Exposure(directory: place.path, isForGroup: isForGroup).lines.map { line -> (String, String) in
      guard let advice = line.range(of: ": chmod ", options: .backwards) else { return (line, "Change its mode.") }
      return (String(line[..<advice.lowerBound]), "chmod " + line[advice.upperBound...])
    }
    let isOpen = Self.status(place.path).map { $0.st_mode & 0o011 != 0 } ?? false
    for secret in Self.secrets where isOpen {
      guard let status = Self.status("\(place.path)/\(secret)"), status.st_mode & 0o077 != 0 else { continue }
      let mode = "0" + String(status.st_mode & 0o777, radix: 8)
      lines.append(
        ("others may read or change \(place.path)/\(secret) (mode \(mode))", "chmod go= \(place.path)/\(secret)"))
    }
    return lines.map { .warning(name, $0.0, advice: $0.1) }
  }

  /// The error of access(2); nil if this user may do all that.
  private static func refusal(_ path: String, _ rights: Int32) -> Int32? { access(path, rights) == 0 ? nil : errno }

  private static func status(_ path: String) -> stat? {
    var status = stat()
    return lstat(path, &status) == 0 ? status : nil
  }

  /// The names in a directory; none if it can't be listed.
  private static func entries(_ path: String, limit: Int) -> [String] {
    guard let stream = opendir(path) else { return [] }
    defer { closedir(stream) }
    var names: [String] = []
    while names.count < limit, let entry = readdir(stream) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
      if name != ".", name != ".." { names.append(name) }
    }
    return names
  }
}
