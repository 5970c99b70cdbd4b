import Foundation
import LogStore
import Testing

@testable import RegisPay

@Suite("Diagnosis: the data directory, ports and keys")
struct DirectoryCheckTests {
  /// A data directory with a payments log of three events, closed.
  private func withData(_ work: (String) async throws -> Void) async throws {
    try await withTemporaryFolder { folder in
      let data = folder + "/data"
      try FileManager.default.createDirectory(
        atPath: data, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
      let store = try LogStore.open(data + "/payments", options: small)
      for number in 0..<3 {
        _ = try await store.append(Append([NewEvent(stream: "s\(number)", type: "Happened", payload: [])]))
      }
      try await store.close()
      try await work(data)
    }
  }

  private var small: LogStore.Options {
    var options = LogStore.Options()
    options.segmentBytes = 1 << 20
    return options
  }

  private func store(_ data: String, simulator: Bool = false) -> [Finding] {
    StoreCheck(directory: data, hasSimulator: simulator).run()
  }

  private func permissions(_ directory: String) -> [Finding] {
    PermissionsCheck(directory: directory, isForGroup: false).run()
  }

  @Test("a sound log is counted, and so is one that a server uses or that was not closed")
  func sound() async throws {
    try await withData { data in
      let closed = store(data)
      #expect(
        closed.map(\.result) == [.ok] && closed[0].found.contains("payments: 3 events in 1 segment of"), "\(closed)")
      #expect(closed[0].found.contains("closed cleanly"))
      let writer = try LogStore.open(data + "/payments", options: small)
      let used = store(data, simulator: true)
      #expect(used.map(\.result) == [.ok, .ok] && used[0].found.contains("a server uses it"), "\(used)")
      try await writer.close()
      try FileManager.default.removeItem(atPath: data + "/payments/clean")
      #expect(store(data)[0].found.contains("not closed"))
      #expect(store(data + "/none").map(\.result) == [.notChecked])
    }
  }

  @Test("damage of a log is a problem that names file and byte, and so is a pipe or nothing in a file's place")
  func damaged() async throws {
    try await withData { data in
      let file = data + "/payments/store"
      var bytes = try Data(contentsOf: URL(fileURLWithPath: file))
      bytes[20] ^= 1
      try bytes.write(to: URL(fileURLWithPath: file))
      #expect(store(data).map(\.result) == [.problem] && store(data)[0].found.contains("damaged \(file) @"))
      try FileManager.default.removeItem(atPath: file)
      #expect(store(data).map(\.result) == [.problem] && store(data)[0].found.contains("the file is missing"))
      #expect(mkfifo(file, 0o600) == 0)
      #expect(store(data).map(\.result) == [.problem] && store(data)[0].found.contains("a pipe or a device"))
      #expect(permissions(data).contains { $0.result == .problem && $0.found.contains("payments/store") })
    }
  }

  @Test("a finished segment that was cut is a problem, though the rest can be served")
  func cutSegment() async throws {
    try await withData { data in
      let store = try LogStore.open(data + "/payments", options: small)
      let payload = [UInt8](repeating: 0x5A, count: 60_000)
      for _ in 0..<20 {
        _ = try await store.append(Append([NewEvent(stream: "a", type: "Happened", payload: payload)]))
      }
      try await store.close()
      let file = try #require(
        try FileManager.default.contentsOfDirectory(atPath: data + "/payments").filter { $0.hasSuffix(".log") }.min())
      #expect(truncate(data + "/payments/" + file, 8_192) == 0)
      let findings = self.store(data)
      #expect(findings.map(\.result) == [.problem] && findings[0].found.contains("\(file) @8192"), "\(findings)")
    }
  }

  @Test("a lost, another and a shorter log, and an unfinished restoration are noticed")
  func otherLog() async throws {
    try await withData { data in
      let id = try LogInspection.look(at: data + "/payments").storeID
      try KnownLog(storeID: id, events: 3).write(in: data)
      #expect(store(data).map(\.result) == [.ok])
      try KnownLog(storeID: id, events: 4).write(in: data)
      #expect(store(data).map(\.result) == [.ok, .warning] && store(data)[1].found.contains("has had 4 events"))
      try KnownLog(storeID: "0123456789abcdef", events: 3).write(in: data)
      #expect(store(data).map(\.result).first == .problem && store(data)[0].found.contains("is another log"))
      try Data("{".utf8).write(to: URL(fileURLWithPath: KnownLog.path(in: data)))
      #expect(store(data).map(\.result) == [.ok, .warning] && store(data)[1].found.contains("can't be read"))
      try KnownLog(storeID: id, events: 3).write(in: data)
      try FileManager.default.removeItem(atPath: data + "/payments")
      #expect(store(data).map(\.result) == [.problem] && store(data)[0].found.contains("the log is missing"))
      try Data().write(to: URL(fileURLWithPath: data + "/restoration"))
      #expect(store(data).map(\.result) == [.problem] && store(data)[0].found.contains("was not finished"))
    }
  }

  @Test("another PSP than that of the payments is a problem, unless it is accepted")
  func psp() async throws {
    try await withData { data in
      var options = ServerOptions(directory: data)
      #expect(PSPCheck(options: options).run().map(\.result) == [.ok])
      try KnownLog(storeID: "0", events: 1, psp: "http://psp.example").write(in: data)
      let findings = PSPCheck(options: options).run()
      #expect(findings.map(\.result) == [.problem] && findings[0].found.contains("http://psp.example"))
      #expect(findings[0].advice?.contains("with --psp-url http://psp.example") == true)
      options.acceptsNewPSP = true
      #expect(PSPCheck(options: options).run().map(\.result) == [.ok])
    }
  }

  @Test("who can use the data directory")
  func modes() async throws {
    try await withData { data in
      func chmod(_ mode: Int, _ name: String = "") throws {
        try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: data + name)
      }
      #expect(permissions(data).map(\.result) == [.ok], "\(permissions(data))")
      #expect(permissions(data + "/../new").map(\.result) == [.ok])
      try chmod(0o777)
      #expect(permissions(data).map(\.result) == [.warning] && permissions(data)[0].advice == "chmod go-w \(data)")
      try chmod(0o755)
      _ = try KeyStore.open(data)
      try chmod(0o644, "/keys.sqlite")
      #expect(
        permissions(data).map(\.result) == [.warning] && permissions(data)[0].found.contains("keys.sqlite (mode 0644)"))
      try chmod(0o700)
      let file = data + "/time"
      try Data().write(to: URL(fileURLWithPath: file))
      #expect(permissions(file).map(\.result) == [.problem] && permissions(file)[0].found.contains("is no directory"))
      #expect(permissions(file + "/data").map(\.result) == [.problem])
      #expect(permissions(data + "/payments").map(\.result) == [.problem], "it is a log")
      guard geteuid() == 0 else { return }
      #expect(chown(file, 65_534, 65_534) == 0)
      let foreign = permissions(data)
      #expect(
        foreign.map(\.result) == [.problem] && foreign[0].found.contains("another user than it does, such as time"))
      #expect(chown(data, 65_534, 65_534) == 0)
      #expect(permissions(data).contains { $0.result == .warning && $0.found.contains("belongs to user 65534") })
    }
  }

  // MARK: - Ports

  /// A socket that listens on a free port of the loopback address, and what is to be done with it.
  private func withListener(_ work: (Int) throws -> Void) throws { try withListener { port, _ in try work(port) } }

  private func withListener(_ work: (Int, Int32) throws -> Void) throws {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = in_addr_t(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let port = withUnsafeMutablePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { address -> in_port_t in
        guard bind(descriptor, address, length) == 0, listen(descriptor, 8) == 0,
          getsockname(descriptor, address, &length) == 0
        else { return 0 }
        return 1
      }
    }
    try #require(port == 1)
    try work(Int(UInt16(bigEndian: address.sin_port)), descriptor)
  }

  private func port(_ host: String, _ port: Int, _ directory: String = "/nowhere") -> Finding? {
    PortCheck(
      addresses: [.init(host: host, port: port, option: "--port", isTLS: false)], directory: directory
    ).run().first
  }

  @Test("a free port, one that another program holds and does not respond on, and an address of another machine")
  func ports() throws {
    var free = 0
    try withListener { used in
      // It may be a supervisor that keeps the socket for the server.
      let finding = try #require(port("127.0.0.1", used))
      #expect(finding.result == .warning && finding.found.contains("is held by process \(getpid()) ("), "\(finding)")
      #expect(finding.advice?.contains("LISTEN_FDS") == true)
      free = used
    }
    #expect(port("127.0.0.1", free)?.result == .ok)
    #expect(port("127.0.0.1", 0)?.result == .ok)
    let other = port("192.0.2.1", 8080)
    #expect(other?.result == .problem && other?.found == "192.0.2.1 is no address of this machine")
    let wrong = port("no address", 8080)
    #expect(wrong?.result == .problem && wrong?.found.contains("can't find the address") == true)
  }

  @Test("a process that holds the lock file of the payments log is the directory's server, alive or not")
  func holder() async throws {
    try await withData { data in
      let lock = open(data + "/payments/lock", O_RDONLY)
      defer { close(lock) }
      try withListener { used in
        guard case .server(let process) = PortHolder(port: used, directory: data) else { throw CancellationError() }
        #expect(process.hasPrefix("process \(getpid()) ("))
        guard case .other = PortHolder(port: used, directory: "/nowhere") else { throw CancellationError() }
        // It never accepts a connection.
        let finding = try #require(port("127.0.0.1", used, data))
        #expect(finding.result == .problem && finding.found.contains("/alive does not respond"), "\(finding)")
      }
    }
  }

  @Test("a program that ends connections on the port is no supervisor, and so is one that responds")
  func otherProgram() throws {
    try withListener { used, descriptor in
      let thread = Thread {
        let connection = accept(descriptor, nil, nil)
        close(connection)
      }
      thread.start()
      let finding = try #require(port("127.0.0.1", used))
      #expect(finding.result == .problem && finding.found.contains("is in use by process \(getpid()) ("), "\(finding)")
    }
  }

  @Test("a socket unit is found by its port, with what is added to it, and is the server's if its service runs one")
  func socketUnits() async throws {
    try await withTemporaryFolder { folder in
      func write(_ text: String, _ name: String) throws {
        let path = URL(fileURLWithPath: "\(folder)/\(name)")
        try FileManager.default.createDirectory(
          at: path.deletingLastPathComponent(), withIntermediateDirectories: true)
        try Data(text.utf8).write(to: path)
      }
      func unit(_ port: Int) -> SocketUnit? {
        SocketUnit.listening(on: port, in: [folder + "/etc", folder + "/none", folder + "/lib"])
      }
      let repository = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("../../..")
      let example = repository.appendingPathComponent("docs/examples/regispay.socket")
      try write(try String(contentsOf: example, encoding: .utf8), "etc/regispay.socket")
      try write("[Service]\nExecStart=/usr/bin/regispay serve --dir /var/lib/regispay\n", "lib/regispay.service")
      try write("[Socket]\nListenStream=[::]:9090\nListenStream=/run/x:7070\n", "lib/cockpit.socket")
      try write("[Service]\nExecStart=/usr/lib/cockpit/cockpit-tls\n", "lib/cockpit.service")
      #expect(unit(8080)?.name == "regispay.socket" && unit(8080)?.isForRegisPay == true)
      #expect(unit(9090)?.name == "cockpit.socket" && unit(9090)?.isForRegisPay == false)
      #expect(unit(7070) == nil && unit(80) == nil)
      try write("[Socket]\nListenStream=\nListenStream=443\n", "etc/regispay.socket.d/a.conf")
      #expect(unit(8080) == nil && unit(443)?.name == "regispay.socket")
    }
  }

  // MARK: - Settings

  @Test("mistakes in settings are findings, and so is what keeps a server from starting")
  func configuration() {
    var options = ServerOptions(directory: "/nowhere")
    func run(_ mistakes: [String] = []) -> [Finding] {
      ConfigurationCheck(options: options, mistakes: mistakes, sources: "a.yaml").run()
    }
    #expect(run() == [.ok(.configuration, "no mistake in a.yaml")])
    #expect(run(["a.yaml line 1: wrong", "a.yaml line 2: wrong"]).map(\.result) == [.problem, .problem])
    options.refusesSimulator = true
    #expect(run().map(\.result) == [.problem] && run()[0].found.contains("--no-simulator needs --psp-url"))
    options.refusesSimulator = false
    options.metricsAddress = .init(host: "0.0.0.0", port: 1)
    #expect(run().map(\.result) == [.problem])
  }

  @Test("a certificate that has ended is a problem, and so are files that are none or don't fit")
  func certificates() async throws {
    try await withTemporaryFolder { folder in
      func write(_ text: String, _ name: String) throws -> String {
        try Data(text.utf8).write(to: URL(fileURLWithPath: folder + "/" + name))
        return folder + "/" + name
      }
      let files = TLSFiles(certificate: try write(Self.ended, "a.crt"), key: try write(Self.key, "a.key"))
      let finding = CertificateCheck(files: files).run()
      #expect(finding.map(\.result) == [.problem] && finding[0].found.contains("has ended at 2020-02-01T00:00:00Z"))
      let none = TLSFiles(certificate: files.key, key: files.key)
      #expect(CertificateCheck(files: none).run()[0].found.contains("holds no certificate in PEM"))
      #expect(mkfifo(folder + "/pipe", 0o600) == 0)
      let pipe = TLSFiles(certificate: folder + "/pipe", key: files.key)
      #expect(CertificateCheck(files: pipe).run().map(\.result) == [.problem])
      #expect(CertificateCheck(files: nil).run().map(\.result) == [.ok])
    }
  }

  /// Made with openssl for this test: valid in January 2020, signed by itself.
  private static let ended = """
    -----BEGIN CERTIFICATE-----
    MIIBEDCBtgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwHhcN
    MjAwMTAxMDAwMDAwWhcNMjAwMjAxMDAwMDAwWjAUMRIwEAYDVQQDDAlsb2NhbGhv
    c3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARzCIvYV05USTFgTeVICBNKZY1l
    z4gjoJsdwsnXssWgA4ONK0AiVZthkqb3isLqmS4ubzc3UV9SPxTeEDDTeHV8MAoG
    CCqGSM49BAMCA0kAMEYCIQD3GSKv2iIKGustVnvGTLDvC2mdyTsf1IwMyzYvImul
    XgIhAP3HzgQhFIwVkDiFsL7gc15wztm0nsThGIrXq3HPxeLt
    -----END CERTIFICATE-----

    """
  private static let key = """
    -----BEGIN EC PRIVATE KEY-----
    MHcCAQEEIF13ftSbsaYiaVUJ+YiwyfJqFni/PoCUUGHj5Kd0FR7YoAoGCCqGSM49
    AwEHoUQDQgAEcwiL2FdOVEkxYE3lSAgTSmWNZc+II6CbHcLJ17LFoAODjStAIlWb
    YZKm94rC6pkuLm83N1FfUj8U3hAw03h1fA==
    -----END EC PRIVATE KEY-----

    """

  // MARK: - Keys

  private func keys(_ data: String, isLoopback: Bool = true, isInsecure: Bool = false) -> [Finding] {
    KeysCheck(directory: data, isLoopback: isLoopback, isInsecure: isInsecure, host: "0.0.0.0").run()
  }

  @Test("keys are counted without a lock, and an address that others can reach needs a valid one")
  func keys() async throws {
    try await withTemporaryFolder { data in
      #expect(keys(data).map(\.found) == ["there is no API key"])
      #expect(keys(data, isLoopback: false).map(\.result) == [.problem])
      #expect(keys(data, isLoopback: false, isInsecure: true).map(\.result) == [.warning])
      #expect(try FileManager.default.contentsOfDirectory(atPath: data).isEmpty)
      let store = try KeyStore.open(data)
      let key = try store.create(name: "a", scopes: [.read], lifetimeSeconds: nil)
      _ = try store.create(name: "b", scopes: [.read], lifetimeSeconds: -1)
      #expect(keys(data, isLoopback: false) == [.ok(.keys, "1 of 2 API keys are valid")])
      _ = try store.revoke(key.id)
      #expect(keys(data, isLoopback: false).map(\.result) == [.problem])
      // Another process's transaction.
      let journal = data + "/keys.sqlite-journal"
      try Data("x".utf8).write(to: URL(fileURLWithPath: journal))
      #expect(keys(data).map(\.result) == [.notChecked])
      try FileManager.default.removeItem(atPath: journal)
      let path = data + "/keys.sqlite"
      var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
      bytes.replaceSubrange(100..<4_096, with: Data(repeating: 0x5A, count: 3_996))
      try bytes.write(to: URL(fileURLWithPath: path))
      #expect(keys(data).map(\.result) == [.problem], "\(keys(data))")
      try Data("no database".utf8).write(to: URL(fileURLWithPath: path))
      #expect(keys(data).map(\.result) == [.problem], "\(keys(data))")
      try FileManager.default.removeItem(atPath: path)
      #expect(mkfifo(path, 0o600) == 0)
      #expect(keys(data).map(\.result) == [.problem] && keys(data)[0].found.contains("it is no file"))
    }
  }

  @Test("a diagnosis of a directory that is not there creates nothing, and has a finding of each check")
  func whole() async throws {
    try await withTemporaryFolder { folder in
      var options = ServerOptions(directory: folder + "/data")
      options.port = 0
      let report = Diagnosis(options).run()
      #expect(Set(report.findings.map(\.check)) == Set(CheckName.allCases))
      #expect(report.directory == folder + "/data")
      let names = try FileManager.default.contentsOfDirectory(atPath: folder)
      #expect(names.isEmpty)
      for finding in report.findings {
        #expect((finding.advice == nil) == (finding.result == .ok || finding.result == .notChecked), "\(finding)")
      }
    }
  }
}
