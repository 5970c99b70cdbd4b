import NIOSSL

/// Why TLS can't be used with some files. `description` is one line and names the file.
public struct TLSFilesError: Error, Sendable, Hashable, CustomStringConvertible {
  public let description: String
}

/// The bytes of a file of certificates, or with a key, in PEM.
struct PEMFile: Sendable {
  let path: String
  let bytes: [UInt8]

  /// Reads a file that a person has named. Blocks for the disk.
  init(_ path: String) throws(TLSFilesError) {
    self.path = path
    do {
      bytes = try SmallFile.readNamed(path)
    } catch {
      throw TLSFilesError(description: "\(error)")
    }
  }

  /// At least one.
  func certificates() throws(TLSFilesError) -> [NIOSSLCertificate] {
    // Its own error says no more.
    guard let found = try? NIOSSLCertificate.fromPEMBytes(bytes), !found.isEmpty else {
      throw TLSFilesError(description: "\(path) holds no certificate in PEM")
    }
    return found
  }

  func privateKey() throws(TLSFilesError) -> NIOSSLPrivateKey {
    do {
      return try NIOSSLPrivateKey(bytes: bytes, format: .pem)
    } catch {
      throw TLSFilesError(description: "\(path) holds no private key in PEM that needs no passphrase")
    }
  }
}
