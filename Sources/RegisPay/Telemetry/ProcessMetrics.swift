import Glibc

/// What the process uses, under the names of Prometheus' own client libraries. Reads `/proc`; blocks for microseconds, or a
/// millisecond with thousands of descriptors.
struct ProcessMetrics: Sendable {
  private let startSeconds: Double?

  init() { startSeconds = Self.startSeconds() }

  var families: [MetricFamily] {
    var families: [MetricFamily] = []
    if let seconds = Self.cpuSeconds {
      var family = MetricFamily("process_cpu_seconds", .counter, "User and system processor time.")
      family.add([], seconds)
      families.append(family)
    }
    if let startSeconds {
      families.append(
        .gauge("process_start_time_seconds", "When the process started, in seconds since 1970.", startSeconds))
    }
    let status = Self.status()
    for (field, name, help) in [
      ("VmRSS", "process_resident_memory_bytes", "Memory in use, with mapped files."),
      (
        "RssAnon", "process_anonymous_memory_bytes",
        "Memory in use that is not a mapped file: what the process itself needs."
      ),
      ("VmSize", "process_virtual_memory_bytes", "Address space, with mapped files."),
    ] {
      if let kibibytes = status[field] { families.append(.gauge(name, help, kibibytes << 10)) }
    }
    if let threads = status["Threads"] { families.append(.gauge("process_threads", "Threads.", threads)) }
    if let count = Self.descriptorCount() { families.append(.gauge("process_open_fds", "Open descriptors.", count)) }
    families.append(.gauge("process_max_fds", "The limit of open descriptors.", DescriptorLimit.current))
    return families
  }

  private static var cpuSeconds: Double? {
    var usage = rusage()
    guard getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage) == 0 else { return nil }
    func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) / 1e6 }
    return seconds(usage.ru_utime) + seconds(usage.ru_stime)
  }

  /// The numbers of `/proc/self/status`, by field; memory in KiB.
  private static func status() -> [String: Int] {
    var numbers: [String: Int] = [:]
    for line in (contents("/proc/self/status") ?? "").split(separator: "\n") {
      let words = line.split(whereSeparator: { $0 == ":" || $0 == "\t" || $0 == " " })
      if words.count >= 2, let number = Int(words[1]) { numbers[String(words[0])] = number }
    }
    return numbers
  }

  /// `/proc/self/stat` has the start in ticks since the machine's start.
  private static func startSeconds() -> Double? {
    // The program's name, in brackets, may hold anything.
    guard let text = contents("/proc/self/stat"), let end = text.lastIndex(of: ")") else { return nil }
    let fields = text[text.index(after: end)...].split(separator: " ")
    // Field 22 of proc(5); the first one here is field 3.
    guard fields.count > 19, let ticks = Double(fields[19]) else { return nil }
    var (now, sinceBoot) = (timespec(), timespec())
    guard clock_gettime(CLOCK_REALTIME, &now) == 0, clock_gettime(CLOCK_BOOTTIME, &sinceBoot) == 0 else { return nil }
    func seconds(_ time: timespec) -> Double { Double(time.tv_sec) + Double(time.tv_nsec) / 1e9 }
    return seconds(now) - seconds(sinceBoot) + ticks / Double(sysconf(Int32(_SC_CLK_TCK)))
  }

  private static func descriptorCount() -> Int? {
    guard let directory = opendir("/proc/self/fd") else { return nil }
    defer { closedir(directory) }
    var count = 0
    while readdir(directory) != nil { count += 1 }
    // `.`, `..` and the descriptor of this listing.
    return max(0, count - 3)
  }

  /// A file of `/proc`, up to 16 KiB.
  private static func contents(_ path: String) -> String? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: 16 << 10)
    var count = 0
    while count < bytes.count {
      let found = bytes.withUnsafeMutableBytes { read(descriptor, $0.baseAddress.map { $0 + count }, $0.count - count) }
      if found < 0, errno == EINTR { continue }
      if found <= 0 { break }
      count += found
    }
    return count > 0 ? String(decoding: bytes.prefix(count), as: UTF8.self) : nil
  }
}
