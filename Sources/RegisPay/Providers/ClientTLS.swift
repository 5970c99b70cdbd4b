import NIOSSL

/// Whom a client of TLS trusts, and what it shows of itself: the options `--tls-roots`, `--tls-certificate` and `--tls-key` of commands,
/// which its errors name.
public struct ClientTLS: Sendable, Hashable {
  /// A file with root certificates, instead of the system's.
  public var roots: String?
  /// A file with the client's certificate, and those between it and its root.
  public var certificate: String?
  /// Set exactly if ``certificate`` is.
  public var key: String?

  /// Trusts the system's roots, and shows nothing.
  public init() {}

  /// Reads the files, to say what is wrong with them before they are needed. Blocks for the disk.
  ///
  /// - Throws: with the option and the file.
  public func check() throws(TLSFilesError) { _ = try context() }

  /// Blocks for the disk.
  func context() throws(TLSFilesError) -> NIOSSLContext {
    var configuration = TLSConfiguration.makeClientConfiguration()
    // RFC 8996: earlier versions must not be used.
    configuration.minimumTLSVersion = .tlsv12
    if let roots {
      configuration.trustRoots = .certificates(
        try naming("--tls-roots") { () throws(TLSFilesError) in try PEMFile(roots).certificates() })
    }
    if let certificate, let key {
      configuration.certificateChain = try naming("--tls-certificate") { () throws(TLSFilesError) in
        try PEMFile(certificate).certificates().map { .certificate($0) }
      }
      configuration.privateKey = try naming("--tls-key") { () throws(TLSFilesError) in
        .privateKey(try PEMFile(key).privateKey())
      }
    }
    do {
      return try NIOSSLContext(configuration: configuration)
    } catch {
      // What the system's own roots lack, TLSFailure says.
      guard let certificate, let key else {
        throw TLSFilesError(
          description: "TLS can't be set up: \(TLSFailure.reason(error, host: "the server") ?? "\(error)")")
      }
      throw TLSFilesError(description: "--tls-key: \(key) is not the key of the first certificate in \(certificate)")
    }
  }

  private func naming<Value>(
    _ option: String, _ read: () throws(TLSFilesError) -> Value
  ) throws(TLSFilesError) -> Value {
    do throws(TLSFilesError) {
      return try read()
    } catch {
      throw TLSFilesError(description: "\(option): \(error)")
    }
  }
}
