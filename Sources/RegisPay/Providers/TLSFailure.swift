import Foundation
import NIOCore
import NIOSSL

/// Puts errors of the TLS library into words. Never shows the library's own text, which holds paths of the machine that built
/// it.
enum TLSFailure {
  /// - Parameter certificate: the other side's, if it sent one.
  /// - Returns: nil for an error that is not about TLS.
  static func reason(_ error: any Error, host: String, certificate: NIOSSLCertificate? = nil) -> String? {
    switch error {
    case let error as NIOSSLError: reason(error, host, certificate)
    case let error as BoringSSLError: reason(error, host, certificate)
    case let error as NIOSSLExtraError where error == .failedToValidateHostname:
      otherName(host)
    case let error as NIOSSLExtraError
    where [.serverHostnameImpossibleToMatch, .invalidSNIHostname, .cannotUseIPAddressInSNI].contains(error):
      "\(host) is no name that a certificate can be for"
    case is NIOSSLExtraError, is NIOTLSUnwrappingError: "TLS with \(host) failed"
    case is NIOSSLCloseTimedOutError: "\(host) did not end the TLS connection in time"
    default: nil
    }
  }

  static func otherName(_ host: String) -> String { "the certificate of \(host) is not for this name" }

  private static func reason(_ error: NIOSSLError, _ host: String, _ certificate: NIOSSLCertificate?) -> String {
    switch error {
    case .handshakeFailed(let cause): reason(cause, host, certificate)
    case .noCertificateToValidate: "\(host) showed no certificate"
    case .unableToValidateCertificate: untrusted(host, certificate)
    case .uncleanShutdown: "\(host) cut the TLS connection off"
    case .noSuchFilesystemObject, .failedToLoadCertificate: "this machine's root certificates can't be read"
    default: "TLS with \(host) failed"
    }
  }

  private static func reason(_ error: BoringSSLError, _ host: String, _ certificate: NIOSSLCertificate?) -> String {
    switch error {
    case .sslError(let stack), .unknownError(let stack), .invalidSNIName(let stack), .failedToSetALPN(let stack):
      if stack.contains(.eofDuringHandshake) || stack.contains(.eofDuringAdditionalCertficiateChainValidation) {
        return "\(host) closed the connection during the TLS handshake"
      }
      let names = stack.compactMap { name(of: "\($0)") }
      if names.contains("CERTIFICATE_VERIFY_FAILED") { return untrusted(host, certificate) }
      guard let first = names.first else { return "TLS with \(host) failed" }
      return "TLS with \(host) failed: \(first.lowercased().replacing("_", with: " "))"
    case .syscallError, .zeroReturn: return "the connection to \(host) broke during the TLS handshake"
    default: return "TLS with \(host) failed"
    }
  }

  /// The library's name of an error, such as `WRONG_VERSION_NUMBER`, taken from a text that also names a line of its source:
  /// `error:100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER at /…:118`.
  static func name(of text: String) -> String? {
    let words = text.split(separator: " at ", maxSplits: 1)[0].split(separator: ":")
    guard let last = words.last, last.utf8.allSatisfy({ (65...90).contains($0) || (48...57).contains($0) || $0 == 95 })
    else { return nil }
    return String(last)
  }

  /// Begins the reason of a certificate that nobody vouches for.
  static func untrustedPrefix(_ host: String) -> String { "the certificate of \(host) isn't trusted" }

  private static func untrusted(_ host: String, _ certificate: NIOSSLCertificate?) -> String {
    let known = certificate.flatMap(fault)
    return untrustedPrefix(host) + (known.map { ": \($0)" } ?? "")
  }

  private static func fault(of certificate: NIOSSLCertificate) -> String? {
    let now = Date().timeIntervalSince1970
    if Double(certificate.notValidAfter) < now { return "it has expired" }
    if Double(certificate.notValidBefore) > now { return "it is not valid yet" }
    // A certificate that can't be encoded again adds no detail.
    guard let bytes = try? certificate.toDERBytes(), let names = CertificateNames(bytes) else { return nil }
    return names.issuer == names.subject
      ? "self-signed certificate" : "no certificate authority that this machine knows signed it"
  }
}

/// The encoded names of a certificate's issuer and subject (RFC 5280, 4.1).
struct CertificateNames {
  let issuer: ArraySlice<UInt8>
  let subject: ArraySlice<UInt8>

  /// - Parameter bytes: from a peer, so possibly anything.
  /// - Returns: nil when the bytes are not a certificate.
  init?(_ bytes: [UInt8]) {
    var rest = bytes[...]
    guard let certificate = Self.next(&rest), certificate.tag == 0x30 else { return nil }
    rest = certificate.value
    guard let toBeSigned = Self.next(&rest), toBeSigned.tag == 0x30 else { return nil }
    rest = toBeSigned.value
    // The version is present from version 2 on. Then come serial number, algorithm, issuer, validity, subject.
    guard var field = Self.next(&rest) else { return nil }
    if field.tag == 0xA0 {
      guard let serial = Self.next(&rest) else { return nil }
      field = serial
    }
    guard field.tag == 0x02, let algorithm = Self.next(&rest), algorithm.tag == 0x30, let issuer = Self.next(&rest),
      let validity = Self.next(&rest), validity.tag == 0x30, let subject = Self.next(&rest)
    else { return nil }
    (self.issuer, self.subject) = (issuer.value, subject.value)
  }

  /// The next element in DER, with lengths below 2^24.
  private static func next(_ bytes: inout ArraySlice<UInt8>) -> (tag: UInt8, value: ArraySlice<UInt8>)? {
    guard let tag = bytes.popFirst(), let first = bytes.popFirst() else { return nil }
    var length = Int(first)
    if first >= 0x80 {
      guard (1...3).contains(first & 0x7F) else { return nil }
      length = 0
      for _ in 0..<(first & 0x7F) {
        guard let byte = bytes.popFirst() else { return nil }
        length = length << 8 | Int(byte)
      }
    }
    guard length <= bytes.count else { return nil }
    defer { bytes = bytes.dropFirst(length) }
    return (tag, bytes.prefix(length))
  }
}
