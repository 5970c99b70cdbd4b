import Crypto
import Foundation
import Logging
import NIOCore
import NIOSSL
import Synchronization

/// The files of a listener's TLS, in PEM.
public struct TLSFiles: Sendable, Hashable {
  /// The server's certificate, then those between it and its root.
  public var certificate: String
  public var key: String
  /// The roots of clients' certificates: each client must show one that they vouch for. Nil: clients need none.
  public var clientRoots: String?

  public init(certificate: String, key: String, clientRoots: String? = nil) {
    self.certificate = certificate
    self.key = key
    self.clientRoots = clientRoots
  }
}

/// A listener's certificate and key. The files are read again while it runs: connections that are made later use what they hold
/// then. Files that can't be used together change nothing.
///
/// Safe to use from any thread.
final class ServerTLS: Sendable {
  /// A certificate that ends within this time is reported.
  private static let notice: TimeInterval = 14 * 24 * 60 * 60
  /// How long a connection waits for its client to end TLS before it is closed.
  private static let closeTime = TimeAmount.seconds(2)

  private struct State {
    var context: NIOSSLContext
    var digest: SHA256Digest
    var end: Date
    /// Why what the files hold now is not used.
    var fault: String?
  }

  private let files: TLSFiles
  private let state: Mutex<State>

  /// Reads the files. Blocks for the disk.
  init(_ files: TLSFiles) throws(TLSFilesError) {
    self.files = files
    let content = try Content(files)
    state = Mutex(State(context: try content.context(files), digest: content.digest, end: content.end))
  }

  /// For connections that are made now.
  var context: NIOSSLContext { state.withLock { $0.context } }

  /// When the first of the certificates ends.
  var end: Date { state.withLock { $0.end } }
  var hasEnded: Bool { end.timeIntervalSinceNow <= 0 }

  /// Without a sample if there is no TLS.
  static func metric(of tls: ServerTLS?) -> MetricFamily {
    var family = MetricFamily(
      "regispay_tls_certificate_expiry_timestamp_seconds", .gauge,
      "When the TLS certificate ends, in seconds since 1970-01-01 UTC.")
    if let tls { family.add([], Int(tls.state.withLock { $0.end.timeIntervalSince1970 })) }
    return family
  }

  /// Lines for ``Health``.
  var warnings: [String] {
    let (end, fault) = state.withLock { ($0.end, $0.fault) }
    let left = end.timeIntervalSinceNow
    let day = end.formatted(.iso8601)
    var lines = fault.map { ["TLS goes on with the certificate and key from before: \($0)"] } ?? []
    if left <= 0 {
      lines.append("the TLS certificate \(files.certificate) has ended at \(day): clients refuse it")
    } else if left < Self.notice {
      lines.append("the TLS certificate \(files.certificate) ends at \(day): put a new one there")
    }
    return lines
  }

  /// Reads the files again, and logs what has changed. Blocks for the disk.
  func refresh(_ logger: Logger) {
    do throws(TLSFilesError) {
      let content = try Content(files)
      guard state.withLock({ $0.digest != content.digest }) else { return setFault(nil, logger) }
      let context = try content.context(files)
      state.withLock { $0 = State(context: context, digest: content.digest, end: content.end) }
      logger.notice(
        "TLS certificate read again",
        metadata: ["file": "\(files.certificate)", "ends": "\(content.end.formatted(.iso8601))"])
    } catch {
      setFault("\(error)", logger)
    }
  }

  private func setFault(_ fault: String?, _ logger: Logger) {
    let isNew = state.withLock { state in
      defer { state.fault = fault }
      return state.fault != fault
    }
    guard isNew, let fault else { return }
    logger.error("TLS goes on with the certificate and key from before", metadata: ["reason": "\(fault)"])
  }

  /// Puts TLS into a connection's pipeline, below all other handlers.
  func addHandlers(to pipeline: ChannelPipeline.SynchronousOperations, _ edge: TLSEdge) throws {
    try pipeline.addHandler(CutOffHandler())
    try pipeline.addHandler(NIOSSLServerHandler(context: context))
    try pipeline.addHandler(edge)
  }

  /// The files' bytes.
  private struct Content {
    private var certificates: [NIOSSLCertificate]
    private var key: PEMFile
    private var roots: [NIOSSLCertificate]?
    let digest: SHA256Digest
    let end: Date

    init(_ files: TLSFiles) throws(TLSFilesError) {
      let certificate = try PEMFile(files.certificate)
      key = try PEMFile(files.key)
      certificates = try certificate.certificates()
      var hash = SHA256()
      for bytes in [certificate.bytes, key.bytes] {
        hash.update(data: withUnsafeBytes(of: bytes.count.littleEndian) { Array($0) })
        hash.update(data: bytes)
      }
      if let path = files.clientRoots {
        let file = try PEMFile(path)
        roots = try file.certificates()
        hash.update(data: file.bytes)
      }
      digest = hash.finalize()
      end = Date(timeIntervalSince1970: certificates.map { Double($0.notValidAfter) }.min() ?? 0)
    }

    func context(_ files: TLSFiles) throws(TLSFilesError) -> NIOSSLContext {
      let privateKey = try key.privateKey()
      var configuration = TLSConfiguration.makeServerConfiguration(
        certificateChain: certificates.map { .certificate($0) }, privateKey: .privateKey(privateKey))
      // RFC 8996: earlier versions must not be used.
      configuration.minimumTLSVersion = .tlsv12
      configuration.applicationProtocols = [TLSEdge.http2, "http/1.1"]
      configuration.shutdownTimeout = ServerTLS.closeTime
      if let roots {
        configuration.trustRoots = .certificates(roots)
        configuration.certificateVerification = .noHostnameVerification
        configuration.sendCANameList = true
      }
      do {
        return try NIOSSLContext(configuration: configuration)
      } catch {
        throw TLSFilesError(
          description: "\(files.key) is not the key of the first certificate in \(files.certificate)")
      }
    }
  }
}
