# Issue the certificates that are missing in a directory: docs/SECURITY_GUIDE.md explains them.
set -e
cd "$1"
ec="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc"
test -f ca.crt || openssl req -x509 $ec -days 3650 -subj /CN=shop -keyout ca.key -out ca.crt
for name in tccd inventory coupon order checkout operator; do
    test -f "$name.crt" && continue
    dns="DNS:$name"
    test $name = tccd && dns="DNS:coordinator-1, DNS:coordinator-2, DNS:localhost, IP:127.0.0.1"
    cat > "$name.ext" <<END
subjectAltName = URI:spiffe://shop.example/$name, $dns
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
END
    openssl req -new $ec -subj "/CN=$name" -keyout "$name.key" -out "$name.csr"
    openssl x509 -req -days 365 -in "$name.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -extfile "$name.ext" -out "$name.crt"
    # All containers share this volume, and each has a user of its own.
    chmod 0644 "$name.key"
done
