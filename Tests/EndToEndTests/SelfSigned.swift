/// Certificates that openssl makes.
enum SelfSigned {
  /// `NAME.crt` and `NAME.key`, for localhost and signed by itself.
  static func make(_ name: String, in folder: String) async throws {
    let process = try RegisPayProcess(
      program: "openssl",
      [
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "90", "-subj",
        "/CN=\(name)", "-addext", "subjectAltName=DNS:localhost", "-keyout", "\(folder)/\(name).key", "-out",
        "\(folder)/\(name).crt",
      ], folder: folder)
    let exit = try await process.waitForExit(within: .seconds(60))
    guard exit.code == 0 else { throw RegisPayProcess.Failure(description: process.errorText) }
  }
}
