/*
 * The functions that the script changes only by its rules: refused, hung, or handed to the real module as they are.
 */
#include "calls.h"

#define FORWARD(begin, name, parameters, arguments) \
  CK_RV name parameters { \
    struct call call; \
    begin; \
    CK_RV rv = refusal(&call); \
    if (rv == CKR_OK) rv = real->name arguments; \
    call_end(&call); \
    return rv; \
  }
#define ON_MODULE(name, parameters, arguments) FORWARD(call_on_module(&call, #name), name, parameters, arguments)
#define ON_SLOT(name, parameters, arguments) FORWARD(call_on_slot(&call, #name, slotID), name, parameters, arguments)
#define ON_SESSION(name, parameters, arguments) FORWARD(call_on_session(&call, #name, hSession), name, parameters, arguments)

ON_MODULE(C_GetInfo, (CK_INFO_PTR pInfo), (pInfo))
ON_SLOT(C_GetMechanismList,
           (CK_SLOT_ID slotID, CK_MECHANISM_TYPE_PTR pMechanismList, CK_ULONG_PTR pulCount),
           (slotID, pMechanismList, pulCount))
ON_SLOT(C_GetMechanismInfo, (CK_SLOT_ID slotID, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO_PTR pInfo), (slotID, type, pInfo))
ON_SESSION(C_InitPIN, (CK_SESSION_HANDLE hSession, CK_UTF8CHAR_PTR pPin, CK_ULONG ulPinLen), (hSession, pPin, ulPinLen))
ON_SESSION(C_SetPIN,
           (CK_SESSION_HANDLE hSession, CK_UTF8CHAR_PTR pOldPin, CK_ULONG ulOldLen, CK_UTF8CHAR_PTR pNewPin, CK_ULONG ulNewLen),
           (hSession, pOldPin, ulOldLen, pNewPin, ulNewLen))
ON_SESSION(C_GetSessionInfo, (CK_SESSION_HANDLE hSession, CK_SESSION_INFO_PTR pInfo), (hSession, pInfo))
ON_SESSION(C_GetOperationState,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pOperationState, CK_ULONG_PTR pulOperationStateLen),
           (hSession, pOperationState, pulOperationStateLen))
ON_SESSION(C_SetOperationState,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pOperationState, CK_ULONG ulOperationStateLen,
            CK_OBJECT_HANDLE hEncryptionKey, CK_OBJECT_HANDLE hAuthenticationKey),
           (hSession, pOperationState, ulOperationStateLen, hEncryptionKey, hAuthenticationKey))
ON_SESSION(C_CreateObject,
           (CK_SESSION_HANDLE hSession, CK_ATTRIBUTE_PTR pTemplate, CK_ULONG ulCount, CK_OBJECT_HANDLE_PTR phObject),
           (hSession, pTemplate, ulCount, phObject))
ON_SESSION(C_CopyObject,
           (CK_SESSION_HANDLE hSession, CK_OBJECT_HANDLE hObject, CK_ATTRIBUTE_PTR pTemplate, CK_ULONG ulCount,
            CK_OBJECT_HANDLE_PTR phNewObject),
           (hSession, hObject, pTemplate, ulCount, phNewObject))
ON_SESSION(C_DestroyObject, (CK_SESSION_HANDLE hSession, CK_OBJECT_HANDLE hObject), (hSession, hObject))
ON_SESSION(C_GetObjectSize,
           (CK_SESSION_HANDLE hSession, CK_OBJECT_HANDLE hObject, CK_ULONG_PTR pulSize),
           (hSession, hObject, pulSize))
ON_SESSION(C_GetAttributeValue,
           (CK_SESSION_HANDLE hSession, CK_OBJECT_HANDLE hObject, CK_ATTRIBUTE_PTR pTemplate, CK_ULONG ulCount),
           (hSession, hObject, pTemplate, ulCount))
ON_SESSION(C_SetAttributeValue,
           (CK_SESSION_HANDLE hSession, CK_OBJECT_HANDLE hObject, CK_ATTRIBUTE_PTR pTemplate, CK_ULONG ulCount),
           (hSession, hObject, pTemplate, ulCount))
ON_SESSION(C_FindObjectsInit,
           (CK_SESSION_HANDLE hSession, CK_ATTRIBUTE_PTR pTemplate, CK_ULONG ulCount),
           (hSession, pTemplate, ulCount))
ON_SESSION(C_FindObjects,
           (CK_SESSION_HANDLE hSession, CK_OBJECT_HANDLE_PTR phObject, CK_ULONG ulMaxObjectCount, CK_ULONG_PTR pulObjectCount),
           (hSession, phObject, ulMaxObjectCount, pulObjectCount))
ON_SESSION(C_FindObjectsFinal, (CK_SESSION_HANDLE hSession), (hSession))
ON_SESSION(C_EncryptInit,
           (CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hKey),
           (hSession, pMechanism, hKey))
ON_SESSION(C_Encrypt,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pData, CK_ULONG ulDataLen, CK_BYTE_PTR pEncryptedData,
            CK_ULONG_PTR pulEncryptedDataLen),
           (hSession, pData, ulDataLen, pEncryptedData, pulEncryptedDataLen))
ON_SESSION(C_EncryptUpdate,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen, CK_BYTE_PTR pEncryptedPart,
            CK_ULONG_PTR pulEncryptedPartLen),
           (hSession, pPart, ulPartLen, pEncryptedPart, pulEncryptedPartLen))
ON_SESSION(C_EncryptFinal,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pLastEncryptedPart, CK_ULONG_PTR pulLastEncryptedPartLen),
           (hSession, pLastEncryptedPart, pulLastEncryptedPartLen))
ON_SESSION(C_DecryptInit,
           (CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hKey),
           (hSession, pMechanism, hKey))
ON_SESSION(C_Decrypt,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pEncryptedData, CK_ULONG ulEncryptedDataLen, CK_BYTE_PTR pData,
            CK_ULONG_PTR pulDataLen),
           (hSession, pEncryptedData, ulEncryptedDataLen, pData, pulDataLen))
ON_SESSION(C_DecryptUpdate,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pEncryptedPart, CK_ULONG ulEncryptedPartLen, CK_BYTE_PTR pPart,
            CK_ULONG_PTR pulPartLen),
           (hSession, pEncryptedPart, ulEncryptedPartLen, pPart, pulPartLen))
ON_SESSION(C_DecryptFinal,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pLastPart, CK_ULONG_PTR pulLastPartLen),
           (hSession, pLastPart, pulLastPartLen))
ON_SESSION(C_DigestInit, (CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism), (hSession, pMechanism))
ON_SESSION(C_Digest,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pData, CK_ULONG ulDataLen, CK_BYTE_PTR pDigest, CK_ULONG_PTR pulDigestLen),
           (hSession, pData, ulDataLen, pDigest, pulDigestLen))
ON_SESSION(C_DigestUpdate, (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen), (hSession, pPart, ulPartLen))
ON_SESSION(C_DigestKey, (CK_SESSION_HANDLE hSession, CK_OBJECT_HANDLE hKey), (hSession, hKey))
ON_SESSION(C_DigestFinal,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pDigest, CK_ULONG_PTR pulDigestLen),
           (hSession, pDigest, pulDigestLen))
ON_SESSION(C_SignInit,
           (CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hKey),
           (hSession, pMechanism, hKey))
ON_SESSION(C_SignUpdate, (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen), (hSession, pPart, ulPartLen))
ON_SESSION(C_SignFinal,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pSignature, CK_ULONG_PTR pulSignatureLen),
           (hSession, pSignature, pulSignatureLen))
ON_SESSION(C_SignRecoverInit,
           (CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hKey),
           (hSession, pMechanism, hKey))
ON_SESSION(C_SignRecover,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pData, CK_ULONG ulDataLen, CK_BYTE_PTR pSignature,
            CK_ULONG_PTR pulSignatureLen),
           (hSession, pData, ulDataLen, pSignature, pulSignatureLen))
ON_SESSION(C_VerifyInit,
           (CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hKey),
           (hSession, pMechanism, hKey))
ON_SESSION(C_Verify,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pData, CK_ULONG ulDataLen, CK_BYTE_PTR pSignature, CK_ULONG ulSignatureLen),
           (hSession, pData, ulDataLen, pSignature, ulSignatureLen))
ON_SESSION(C_VerifyUpdate, (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen), (hSession, pPart, ulPartLen))
ON_SESSION(C_VerifyFinal,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pSignature, CK_ULONG ulSignatureLen),
           (hSession, pSignature, ulSignatureLen))
ON_SESSION(C_VerifyRecoverInit,
           (CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hKey),
           (hSession, pMechanism, hKey))
ON_SESSION(C_VerifyRecover,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pSignature, CK_ULONG ulSignatureLen, CK_BYTE_PTR pData,
            CK_ULONG_PTR pulDataLen),
           (hSession, pSignature, ulSignatureLen, pData, pulDataLen))
ON_SESSION(C_DigestEncryptUpdate,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen, CK_BYTE_PTR pEncryptedPart,
            CK_ULONG_PTR pulEncryptedPartLen),
           (hSession, pPart, ulPartLen, pEncryptedPart, pulEncryptedPartLen))
ON_SESSION(C_DecryptDigestUpdate,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pEncryptedPart, CK_ULONG ulEncryptedPartLen, CK_BYTE_PTR pPart,
            CK_ULONG_PTR pulPartLen),
           (hSession, pEncryptedPart, ulEncryptedPartLen, pPart, pulPartLen))
ON_SESSION(C_SignEncryptUpdate,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen, CK_BYTE_PTR pEncryptedPart,
            CK_ULONG_PTR pulEncryptedPartLen),
           (hSession, pPart, ulPartLen, pEncryptedPart, pulEncryptedPartLen))
ON_SESSION(C_DecryptVerifyUpdate,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pEncryptedPart, CK_ULONG ulEncryptedPartLen, CK_BYTE_PTR pPart,
            CK_ULONG_PTR pulPartLen),
           (hSession, pEncryptedPart, ulEncryptedPartLen, pPart, pulPartLen))
ON_SESSION(C_GenerateKey,
           (CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_ATTRIBUTE_PTR pTemplate, CK_ULONG ulCount,
            CK_OBJECT_HANDLE_PTR phKey),
           (hSession, pMechanism, pTemplate, ulCount, phKey))
ON_SESSION(C_GenerateKeyPair,
           (CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_ATTRIBUTE_PTR pPublicKeyTemplate,
            CK_ULONG ulPublicKeyAttributeCount, CK_ATTRIBUTE_PTR pPrivateKeyTemplate, CK_ULONG ulPrivateKeyAttributeCount,
            CK_OBJECT_HANDLE_PTR phPublicKey, CK_OBJECT_HANDLE_PTR phPrivateKey),
           (hSession, pMechanism, pPublicKeyTemplate, ulPublicKeyAttributeCount, pPrivateKeyTemplate,
            ulPrivateKeyAttributeCount, phPublicKey, phPrivateKey))
ON_SESSION(C_WrapKey,
           (CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hWrappingKey, CK_OBJECT_HANDLE hKey,
            CK_BYTE_PTR pWrappedKey, CK_ULONG_PTR pulWrappedKeyLen),
           (hSession, pMechanism, hWrappingKey, hKey, pWrappedKey, pulWrappedKeyLen))
ON_SESSION(C_UnwrapKey,
           (CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hUnwrappingKey, CK_BYTE_PTR pWrappedKey,
            CK_ULONG ulWrappedKeyLen, CK_ATTRIBUTE_PTR pTemplate, CK_ULONG ulAttributeCount, CK_OBJECT_HANDLE_PTR phKey),
           (hSession, pMechanism, hUnwrappingKey, pWrappedKey, ulWrappedKeyLen, pTemplate, ulAttributeCount, phKey))
ON_SESSION(C_DeriveKey,
           (CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hBaseKey, CK_ATTRIBUTE_PTR pTemplate,
            CK_ULONG ulAttributeCount, CK_OBJECT_HANDLE_PTR phKey),
           (hSession, pMechanism, hBaseKey, pTemplate, ulAttributeCount, phKey))
ON_SESSION(C_SeedRandom, (CK_SESSION_HANDLE hSession, CK_BYTE_PTR pSeed, CK_ULONG ulSeedLen), (hSession, pSeed, ulSeedLen))
ON_SESSION(C_GenerateRandom,
           (CK_SESSION_HANDLE hSession, CK_BYTE_PTR RandomData, CK_ULONG ulRandomLen),
           (hSession, RandomData, ulRandomLen))
ON_SESSION(C_GetFunctionStatus, (CK_SESSION_HANDLE hSession), (hSession))
ON_SESSION(C_CancelFunction, (CK_SESSION_HANDLE hSession), (hSession))
ON_MODULE(C_WaitForSlotEvent, (CK_FLAGS flags, CK_SLOT_ID_PTR pSlot, CK_VOID_PTR pReserved), (flags, pSlot, pReserved))
