import Glibc

/// Facts about the machine that numbers depend on: names and values, for people.
struct Machine: Sendable {
  var facts: [(name: String, value: String)]

  /// - Parameter directory: where the data is written; it must exist.
  init(directory: String) {
    let processor = Self.field("model name", in: contents("/proc/cpuinfo") ?? "") ?? "unknown"
    let memoryKibibytes = Self.field("MemTotal", in: contents("/proc/meminfo") ?? "")
      .flatMap { $0.split(separator: " ").first }.flatMap { Double($0) }
    var system = utsname()
    uname(&system)
    let mount = Self.mount(of: directory)
    facts = [
      ("processor", processor),
      ("cores", String(sysconf(Int32(_SC_NPROCESSORS_ONLN)))),
      ("memory", memoryKibibytes.map { "\(fixed($0 / 1_048_576, 1)) GiB" } ?? "unknown"),
      ("kernel", "\(Self.text(&system.sysname)) \(Self.text(&system.release)) \(Self.text(&system.machine))"),
      ("file system", mount.map { "\($0.type), \($0.options)" } ?? "unknown"),
      ("disk", mount.map { Self.disk($0.device) } ?? "unknown"),
      ("compiler", Self.compiler),
      ("build", Self.build),
      ("date", Self.date()),
    ]
  }

  private static var build: String {
    #if DEBUG
      "debug: these numbers mean little"
    #else
      "release"
    #endif
  }

  private static var compiler: String {
    #if compiler(>=6.4)
      "Swift 6.4 or later"
    #elseif compiler(>=6.3.1)
      "Swift 6.3.1 or a later 6.3"
    #elseif compiler(>=6.3)
      "Swift 6.3"
    #else
      "Swift before 6.3"
    #endif
  }

  private static func date() -> String {
    var now = Glibc.time(nil)
    var parts = tm()
    gmtime_r(&now, &parts)
    func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
    return "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
      + " \(two(parts.tm_hour)):\(two(parts.tm_min)) UTC"
  }

  /// The value behind `name:` in a file of such lines.
  private static func field(_ name: String, in text: String) -> String? {
    for line in text.split(separator: "\n") {
      let parts = line.split(separator: ":", maxSplits: 1)
      guard parts.count == 2, trimmed(parts[0]) == name else { continue }
      return trimmed(parts[1])
    }
    return nil
  }

  private static func trimmed(_ text: Substring) -> String {
    var text = text.drop { $0 == " " || $0 == "\t" }
    while let last = text.last, last == " " || last == "\t" { text.removeLast() }
    return String(text)
  }

  private static func text<Array>(_ array: inout Array) -> String {
    withUnsafeBytes(of: &array) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
  }

  /// The mount with this directory's device number; proc(5), `mountinfo`.
  private static func mount(of directory: String) -> (type: String, options: String, device: String)? {
    var status = stat()
    guard stat(directory, &status) == 0 else { return nil }
    let device = UInt64(status.st_dev)
    let number = "\(device >> 8 & 0xFFF | device >> 32 & ~0xFFF):\(device & 0xFF | device >> 12 & ~0xFF)"
    for line in (contents("/proc/self/mountinfo") ?? "").split(separator: "\n") {
      let fields = line.split(separator: " ")
      guard fields.count > 6, fields[2] == number, let dash = fields.firstIndex(of: "-"), dash + 3 < fields.count
      else { continue }
      // The options of the mount, then those of the file system; some are both.
      var options = fields[5].split(separator: ",")
      for option in fields[dash + 3].split(separator: ",") where !options.contains(option) { options.append(option) }
      return (String(fields[dash + 1]), options.joined(separator: ","), number)
    }
    return nil
  }

  /// Model, kind and size of a block device by its number.
  private static func disk(_ device: String) -> String {
    var path = "/sys/dev/block/\(device)"
    guard let resolved = realpath(path, nil) else { return "unknown" }
    path = String(cString: resolved)
    free(resolved)
    // A partition's model is that of the disk that it is on.
    if contents("\(path)/queue/rotational") == nil, let slash = path.lastIndex(of: "/") {
      path = String(path[..<slash])
    }
    let name = path.split(separator: "/").last.map(String.init) ?? device
    var parts = [name]
    if let model = contents("\(path)/device/model") { parts.append(trimmed(model.prefix { $0 != "\n" })) }
    if let sectors = contents("\(path)/size").flatMap({ Double($0.prefix { $0 != "\n" }) }) {
      parts.append("\(fixed(sectors * 512 / 1_073_741_824, 0)) GiB")
    }
    // A virtual disk claims to rotate, whatever is below it.
    if contents("\(path)/queue/rotational")?.hasPrefix("0") == true { parts.append("not rotating") }
    if let cache = contents("\(path)/queue/write_cache") { parts.append(trimmed(cache.prefix { $0 != "\n" })) }
    return parts.joined(separator: ", ")
  }
}
