import Foundation
import Testing

/// A RabbitMQ broker (Debian's rabbitmq-server) of this test alone: on free ports, with its files in a folder, and stopped with the
/// test.
final class RabbitMQ: Sendable {
  let port: Int
  /// Speaks TLS, if a certificate was named.
  let portOfTLS: Int
  private let folder: String
  private let variables: [String]
  private let names: RegisPayProcess

  private static let programs = "/usr/lib/rabbitmq/bin/"

  /// The files of a broker that was killed are used again by ``start()``.
  ///
  /// - Parameter certificate: the path of a certificate and of its key, without `.crt` and `.key`.
  init(in folder: String, certificate: String? = nil) async throws {
    let ports = try (0..<4).map { _ in try FreePort.find() }
    (port, portOfTLS) = (ports[0], ports[3])
    self.folder = folder + "/broker"
    try FileManager.default.createDirectory(atPath: self.folder, withIntermediateDirectories: true)
    try "[].".write(toFile: self.folder + "/plugins", atomically: true, encoding: .utf8)
    var settings = "heartbeat = 10\n"
    if let certificate {
      settings += "listeners.ssl.1 = 127.0.0.1:\(portOfTLS)\nssl_options.cacertfile = \(certificate).crt\n"
      settings += "ssl_options.certfile = \(certificate).crt\nssl_options.keyfile = \(certificate).key\n"
    }
    try settings.write(toFile: self.folder + "/rabbitmq.conf", atomically: true, encoding: .utf8)
    variables = [
      "HOME=\(self.folder)", "RABBITMQ_NODENAME=regispay\(port)@localhost",
      "RABBITMQ_MNESIA_BASE=\(self.folder)/mnesia",
      "RABBITMQ_LOG_BASE=\(self.folder)/log", "RABBITMQ_NODE_PORT=\(port)", "RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
      "RABBITMQ_DIST_PORT=\(ports[1])", "RABBITMQ_CONF_ENV_FILE=/dev/null",
      "RABBITMQ_ENABLED_PLUGINS_FILE=\(self.folder)/plugins", "RABBITMQ_CONFIG_FILE=\(self.folder)/rabbitmq",
      "RABBITMQ_PID_FILE=\(self.folder)/pid", "ERL_EPMD_PORT=\(ports[2])", "ERL_EPMD_ADDRESS=127.0.0.1",
    ]
    // The broker would start one that outlives it.
    names = try RegisPayProcess(
      program: "epmd", ["-address", "127.0.0.1", "-port", "\(ports[2])"], folder: self.folder)
  }

  /// Starts the broker, and waits until it takes connections.
  func start() async throws -> Running {
    let process = try RegisPayProcess(
      program: Self.programs + "rabbitmq-server", under: variables, [], folder: folder)
    try await eventually("the broker has started", within: .seconds(120)) {
      if let descriptor = connectOnce(to: port) {
        close(descriptor)
        return true
      }
      return false
    }
    return Running(process: process)
  }

  /// The script and the broker itself, which are one process group.
  final class Running: Sendable {
    private let process: RegisPayProcess

    init(process: RegisPayProcess) { self.process = process }

    deinit { kill(-process.pid, SIGKILL) }

    func killHard() async throws {
      kill(-process.pid, SIGKILL)
      _ = try await process.waitForExit()
    }
  }

  /// Runs `rabbitmqctl`, and returns what it prints.
  @discardableResult
  func control(_ arguments: String...) async throws -> String {
    let process = try RegisPayProcess(
      program: Self.programs + "rabbitmqctl", under: variables, ["--quiet"] + arguments, folder: folder)
    var lines: [String] = []
    while let line = try await process.nextLine(within: .seconds(60)) { lines.append(line) }
    let exit = try await process.waitForExit(within: .seconds(60))
    guard exit.code == 0 else {
      throw RegisPayProcess.Failure(description: "\(arguments): \(process.errorText) \(lines)")
    }
    return lines.joined(separator: "\n")
  }
}

/// A port that nobody listens on at the moment.
enum FreePort {
  static func find() throws -> Int {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var address = loopback(port: 0)
    var size = socklen_t(MemoryLayout<sockaddr_in>.size)
    let result = withUnsafeMutablePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
        bind(descriptor, address, size) == 0 ? getsockname(descriptor, address, &size) : -1
      }
    }
    guard result == 0 else { throw RegisPayProcess.Failure(description: "no free port: \(errno)") }
    return Int(UInt16(bigEndian: address.sin_port))
  }
}

private func loopback(port: Int) -> sockaddr_in {
  var address = sockaddr_in()
  address.sin_family = sa_family_t(AF_INET)
  address.sin_port = in_port_t(port).bigEndian
  address.sin_addr.s_addr = in_addr_t(0x7F00_0001).bigEndian
  return address
}

/// Nil if nobody listens.
private func connectOnce(to port: Int) -> Int32? {
  let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
  var address = loopback(port: port)
  let result = withUnsafePointer(to: &address) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
      connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
    }
  }
  guard result == 0 else {
    close(descriptor)
    return nil
  }
  return descriptor
}
