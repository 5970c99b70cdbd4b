import Foundation
import Testing

@Suite("regispay doctor")
struct RegisPayDoctorTests {
  struct Report {
    struct Finding {
      var id: String
      var result: String
      var found: String
      var advice: String?
    }

    var code: Int32
    var output: String
    var errors: String
    var findings: [Finding]

    func results(_ id: String) -> [String] { findings.filter { $0.id == id }.map(\.result) }
    func found(_ id: String) -> String { findings.filter { $0.id == id }.map(\.found).joined(separator: "\n") }
  }

  /// `regispay doctor --format json`, and what it found.
  func doctor(
    _ arguments: [String], in folder: String, under wrapper: [String] = [], environment: [String] = []
  ) async throws -> Report {
    let process = try RegisPayProcess(
      under: wrapper + (environment.isEmpty ? [] : ["env"] + environment), ["doctor", "--format", "json"] + arguments,
      folder: folder)
    let line = try await process.nextLine(within: .seconds(60)) ?? "{}"
    let exit = try await process.waitForExit()
    let json = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any]
    let checks = json?["checks"] as? [[String: String]] ?? []
    let findings = checks.map {
      Report.Finding(id: $0["id"] ?? "", result: $0["result"] ?? "", found: $0["found"] ?? "", advice: $0["advice"])
    }
    let hasProblem = findings.contains { $0.result == "problem" }
    #expect(exit == .init(code: hasProblem ? 1 : 0, isSignal: false), "\(line)\n\(process.errorText)")
    #expect(json?["result"] as? String == "problem" || !hasProblem)
    #expect(process.errorText == "")
    return Report(code: exit.code, output: line, errors: process.errorText, findings: findings)
  }

  private func names(_ folder: String) throws -> [String] {
    try FileManager.default.subpathsOfDirectory(atPath: folder).filter {
      !$0.hasPrefix("stderr-") && !$0.hasSuffix(".new")
    }
    .sorted()
  }

  @Test("before the first start it checks the directory above, and creates nothing")
  func beforeTheFirstStart() async throws {
    try await withTemporaryFolder { folder in
      let report = try await doctor(["--dir", folder + "/data", "--port", "0"], in: folder)
      #expect(try names(folder) == [])
      #expect(report.results("permissions") == ["ok"] && report.found("permissions").contains("does not exist yet"))
      #expect(report.results("store") == ["not checked"] && report.results("backup-age") == ["not checked"])
      #expect(report.results("configuration") == ["ok"] && report.results("keys") == ["ok"])
      #expect(Set(report.findings.map(\.id)).count == 19)
    }
  }

  @Test("the text has a line for each finding with what to do below, and the exit code of the worst")
  func text() async throws {
    try await withTemporaryFolder { folder in
      let file = folder + "/a.yaml"
      try Data("port: 0\nwebhook-timeout: 0\nprot: 1\n".utf8).write(to: URL(fileURLWithPath: file))
      let process = try RegisPayProcess(["doctor", "--dir", folder + "/data", "--config", file], folder: folder)
      var lines: [String] = []
      while let line = try await process.nextLine() { lines.append(line) }
      #expect(try await process.waitForExit() == .init(code: 1, isSignal: false))
      #expect(
        lines.contains {
          $0.hasPrefix("problem      configuration  \(file) line 2: --webhook-timeout must be 1 to 300")
        })
      #expect(lines.contains { $0.hasPrefix("problem      configuration  \(file) line 3: there is no setting prot") })
      #expect(lines.contains { $0.hasPrefix("                            To do: Correct it: ") })
      #expect(
        lines.contains { $0.hasPrefix("ok           port           --port 0") }, "the rest of the file counts: \(lines)"
      )
      #expect(lines.last?.hasPrefix("\(folder)/data: ") == true && lines.last?.hasSuffix(" not checked") == true)
    }
  }

  @Test("it reads the settings where serve does, and shows no secret")
  func settings() async throws {
    try await withTemporaryFolder { folder in
      let report = try await doctor(
        ["--dir", folder + "/data"], in: folder,
        environment: [
          "REGISPAY_HOST=0.0.0.0", "REGISPAY_PORT=0", "REGISPAY_PSP_URL=http://psp.example",
          "REGISPAY_PSP_TOKEN=top secret",
          "REGISPAY_TLS_KEY=a.key", "OTEL_EXPORTER_OTLP_ENDPOINT=nonsense",
        ])
      #expect(
        report.results("keys") == ["problem"] && report.found("keys").contains("other machines can reach 0.0.0.0"))
      #expect(report.results("configuration") == ["problem", "problem", "problem"])
      #expect(report.found("configuration").contains("OTEL_EXPORTER_OTLP_ENDPOINT"))
      #expect(
        report.found("configuration").contains("environment variable REGISPAY_PSP_TOKEN: psp-token can't be used"))
      #expect(report.found("configuration").contains("--tls-key needs --tls-certificate"))
      #expect(
        report.found("psp")
          == "calls go to http://psp.example; no payment was made yet, or none that says with which PSP")
      #expect(!report.output.contains("top secret"))
    }
  }

  @Test("beside a running server it finds that server, disturbs nothing, and changes no file")
  func besideAServer() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let id = try await server.createPayment("12.34")
      try await server.wait(for: id, status: "Completed", within: .seconds(20))
      let port = try #require(server.url.split(separator: ":").last)
      let before = try names(folder)
      let backup = RegisPayProcess.buildFolder.appendingPathComponent("regispay").path
      let made = try RegisPayProcess(
        program: backup, ["backup", "--dir", folder + "/data", "--to", folder + "/backup"], folder: folder)
      #expect(try await made.waitForExit() == .init(code: 0, isSignal: false), "\(made.errorText)")
      let report = try await doctor(
        [
          "--dir", folder + "/data", "--port", String(port), "--segment-bytes", "1048576", "--backup",
          folder + "/backup",
        ],
        in: folder)
      #expect(
        report.results("port") == ["ok"]
          && report.found("port").contains("this directory's server, process \(server.process.pid)"))
      #expect(report.found("port").hasSuffix("and it responds"))
      #expect(
        report.results("store") == ["ok", "ok"] && report.found("store").contains("a server uses it"),
        "\(report.output)")
      #expect(report.results("permissions") == ["ok"] && report.results("psp") == ["ok"])
      #expect(report.results("backup-age") == ["ok", "warning"], "it is on the same disk")
      #expect(try names(folder).filter { !$0.hasPrefix("backup") } == before)
      #expect(try await server.get("/health").status == 200)
      // The server of another directory.
      let other = try await doctor(["--dir", folder + "/other", "--port", String(port)], in: folder)
      #expect(
        other.results("port") == ["problem"]
          && other.found("port").contains("is in use by process \(server.process.pid) (regispay)"))
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("it takes no lock and opens no file to write, but for one without a name: by its system calls")
  func systemCalls() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let made = try RegisPayProcess(
        ["keys", "create", "--dir", folder + "/data", "--name", "a", "--scope", "read"], folder: folder)
      #expect(try await made.waitForExit() == .init(code: 0, isSignal: false))
      let trace = folder + "/trace"
      let calls =
        "flock,fcntl,open,openat,creat,unlink,unlinkat,rename,renameat2,mkdir,chmod,fchmod,ftruncate,fallocate"
      _ = try await doctor(
        ["--dir", folder + "/data", "--port", "0"], in: folder,
        under: ["strace", "-f", "--quiet=all", "-o", trace, "-e", "trace=" + calls])
      let lines = try String(contentsOfFile: trace, encoding: .utf8).split(separator: "\n")
      #expect(lines.contains { $0.contains("F_OFD_GETLK") } && lines.contains { $0.contains("keys.sqlite") })
      let changes = lines.filter { line in
        line.contains(/O_CREAT|O_RDWR|O_WRONLY|O_TRUNC|F_(OFD_)?SETLKW?|F_SETLEASE/)
          || line.contains(
            /^[0-9]+ +(flock|creat|unlink|unlinkat|rename|renameat2|mkdir|chmod|fchmod|ftruncate|fallocate)\(/)
      }
      #expect(changes.count == 1 && changes[0].contains("O_TMPFILE"), "\(changes)")
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("after kill -9 it changes no byte of the log, which the next start then recovers")
  func afterAKill() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      _ = try await server.createPayment("12.34")
      try await server.killHard()
      func logs() throws -> [String: Data] {
        let names = try names(folder + "/data/payments")
        return Dictionary(
          uniqueKeysWithValues: try names.map {
            ($0, try Data(contentsOf: URL(fileURLWithPath: "\(folder)/data/payments/\($0)")))
          })
      }
      let before = try logs()
      let report = try await doctor(["--dir", folder + "/data", "--port", "0"], in: folder)
      #expect(
        report.results("store") == ["ok", "ok"] && report.found("store").contains("not closed"), "\(report.output)")
      #expect(try logs() == before)
      let again = try await RunningServer.start(directory: folder)
      #expect(try await again.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("a certificate that ends within two weeks is a warning")
  func certificate() async throws {
    try await withTemporaryFolder { folder in
      let made = try RegisPayProcess(
        program: "openssl",
        [
          "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "5", "-subj",
          "/CN=localhost", "-keyout", folder + "/a.key", "-out", folder + "/a.crt",
        ], folder: folder)
      #expect(try await made.waitForExit() == .init(code: 0, isSignal: false), "\(made.errorText)")
      let report = try await doctor(
        [
          "--dir", folder + "/data", "--port", "0", "--tls-certificate", folder + "/a.crt", "--tls-key",
          folder + "/a.key",
        ],
        in: folder)
      #expect(report.results("tls") == ["warning"] && report.found("tls").contains("in less than 14 days"))
    }
  }

  /// Runs the shell's words as root in mounts of their own, and then the program.
  func mounted(_ commands: String) -> [String] {
    ["unshare", "-m", "sh", "-c", "set -e; \(commands); exec \"$@\"", "sh"]
  }

  @Test(
    "a full disk, one that can only be read, and a small limit of file sizes end nothing", .enabled(if: geteuid() == 0))
  func refusingDisks() async throws {
    try await withTemporaryFolder { folder in
      let data = folder + "/disk"
      try FileManager.default.createDirectory(atPath: data, withIntermediateDirectories: false)
      let arguments = ["--dir", data + "/data", "--port", "0"]
      let mount = "mount -t tmpfs -o size=1m none \(data); mkdir -m 700 \(data)/data"
      let full = try await doctor(
        arguments, in: folder, under: mounted("\(mount); head -c 2m /dev/zero > \(data)/fill 2> /dev/null || true"))
      #expect(full.results("disk-space") == ["problem"] && full.found("disk-space").hasPrefix("0 bytes of 1.0 MiB"))
      #expect(full.results("file-system") == ["problem"] && full.results("sync-speed") == ["not checked"])
      let readOnly = try await doctor(arguments, in: folder, under: mounted("\(mount); mount -o remount,ro \(data)"))
      #expect(readOnly.found("file-system").contains("mounted read-only"))
      #expect(readOnly.found("permissions").contains("can't write to"), "\(readOnly.output)")
      let limited = try await doctor(
        ["--dir", folder + "/data", "--port", "0"], in: folder, under: ["sh", "-c", "ulimit -f 16; exec \"$@\"", "sh"])
      #expect(limited.results("file-size") == ["problem"] && limited.found("sync-speed").contains("can't write"))
    }
  }

  @Test("a data directory that this user may not reach is a problem and no more", .enabled(if: geteuid() == 0))
  func withoutRights() async throws {
    try await withTemporaryFolder { folder in
      let data = folder + "/closed/data"
      try FileManager.default.createDirectory(atPath: data, withIntermediateDirectories: true)
      #expect(chmod(folder, 0o755) == 0 && chmod(folder + "/closed", 0o700) == 0)
      let report = try await doctor(
        ["--dir", data, "--port", "0"], in: folder,
        under: ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
      #expect(
        report.results("permissions") == ["problem"] && report.found("permissions").contains("can't reach \(data)"))
    }
  }

  @Test("a disk whose syncs don't return is a problem after ten seconds, and the command ends")
  func hangingDisk() async throws {
    try await withTemporaryFolder { folder in
      try Data("hang".utf8).write(to: URL(fileURLWithPath: folder + "/hang"))
      let report = try await doctor(
        ["--dir", folder + "/data", "--port", "0"], in: folder,
        under: ["env", "LD_PRELOAD=\(try await TestTool.hang.value)", "HANG=\(folder)/hang"])
      #expect(
        report.results("sync-speed") == ["problem"]
          && report.found("sync-speed").contains("did not end within 10 seconds"))
    }
  }

  @Test("SIGKILL during a diagnosis leaves no file")
  func killed() async throws {
    try await withTemporaryFolder { folder in
      let data = folder + "/data"
      try FileManager.default.createDirectory(
        atPath: data, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
      for delay in stride(from: 20_000, through: 200_000, by: 30_000) {
        let process = try RegisPayProcess(["doctor", "--dir", data, "--port", "0"], folder: folder)
        // Any moment will do.
        try await Task.sleep(for: .microseconds(delay))
        process.signal(SIGKILL)
        _ = try await process.waitForExit()
        #expect(try names(data) == [])
      }
    }
  }

  @Test("OPERATIONS lists every check by its name, and no other")
  func documented() async throws {
    let path = CommandBlock.repository.appendingPathComponent("docs/OPERATIONS.md")
    let text = try String(contentsOf: path, encoding: .utf8)
    let table = try #require(text.components(separatedBy: "| check | looks at |").dropFirst().first)
    let rows = table.split(separator: "\n").drop { $0.hasPrefix("|---") || $0.hasPrefix(" ") }.prefix {
      $0.hasPrefix("| `")
    }
    let listed = rows.compactMap { $0.split(separator: "`").dropFirst().first.map(String.init) }
    try await withTemporaryFolder { folder in
      let report = try await doctor(["--dir", folder + "/data", "--port", "0"], in: folder)
      var found: [String] = []
      for finding in report.findings where !found.contains(finding.id) { found.append(finding.id) }
      #expect(listed == found)
    }
  }
}
